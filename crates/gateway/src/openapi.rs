//! The gateway described for programs.
//!
//! The document is a file, so that it can be read without a server. A test makes it of the table of routes and of the
//! `.proto` files and wants the file to agree.

/// The description of all routes, in JSON.
pub fn document() -> &'static str {
    include_str!("../../../docs/openapi.json")
}

#[cfg(test)]
mod generate;
