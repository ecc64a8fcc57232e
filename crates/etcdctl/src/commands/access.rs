//! What `user` and `role` have in common: a change by name, and a sentence when it is done.

use retcd_api::etcdserverpb::ResponseHeader;
use retcd_client::{Client, Error};

use super::text;
use crate::failure;
use crate::print::{Done, Reply};
use crate::session::Session;
use retcd_command_line::Failure;
use retcd_command_line::Invocation;

/// Sends a change and says that it is done.
pub(super) fn change(
    invocation: &Invocation,
    sentence: impl Into<Vec<u8>>,
    send: impl AsyncFnOnce(Client) -> Result<Option<ResponseHeader>, Error>,
) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let header = session
        .block_on(send(session.patient_client()))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::Done(&Done { header, sentence: sentence.into() }))
}

/// The only argument. `otherwise` says what is wrong with any other number of them.
pub(super) fn only_name(invocation: &Invocation, otherwise: &str) -> Result<String, Failure> {
    let [name] = names(invocation, otherwise)?;
    Ok(name)
}

/// All arguments, which must be so many.
pub(super) fn names<const N: usize>(
    invocation: &Invocation,
    otherwise: &str,
) -> Result<[String; N], Failure> {
    let args: &[Vec<u8>; N] =
        invocation.args.as_slice().try_into().map_err(|_| Failure::bad_args(otherwise))?;
    let names = args.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
    Ok(names.try_into().expect("as many names as arguments"))
}

/// No arguments at all.
pub(super) fn no_arguments(invocation: &Invocation, otherwise: &str) -> Result<(), Failure> {
    names::<0>(invocation, otherwise).map(|_| ())
}
