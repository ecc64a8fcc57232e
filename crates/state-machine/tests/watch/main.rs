//! The watch hub against a small store: scripts that say what clients receive, and random histories.

#[cfg(test)]
mod client;
#[cfg(test)]
mod model;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod store;
