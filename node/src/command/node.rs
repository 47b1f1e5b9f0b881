//! Asking the running node: what each command does the same way.

use std::io;

use super::{Context, output};
use crate::control::{
    Exit, Failure,
    client::AskError,
    protocol::{Reply, Request},
};

/// Makes a request whose only reply is the last; lines of progress go to standard error.
///
/// # Errors
/// A [`Failure`] with the reason and the exit code.
pub(crate) fn ask(context: &Context, request: &Request) -> anyhow::Result<Reply> {
    ask_while(context, request, |reply| {
        if let Reply::Progress(text) = reply {
            output::note(&text);
        }
        Ok(())
    })
}

/// Makes a request and hands the replies before the last to `meanwhile`.
///
/// # Errors
/// A [`Failure`] with the reason and the exit code, or the error of `meanwhile`.
pub(crate) fn ask_while(
    context: &Context,
    request: &Request,
    meanwhile: impl FnMut(Reply) -> io::Result<()>,
) -> anyhow::Result<Reply> {
    context.door.ask(request, meanwhile).map_err(|error| match error {
        AskError::Output(error) => error.into(),
        error => Failure::from(error).into(),
    })
}

/// Says whether a request failed because no node runs.
pub(crate) fn is_no_node(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.exit == Exit::NoNode)
}

/// The error for a last reply that answers another question.
pub(crate) fn unexpected() -> anyhow::Error {
    let message = "the node gave an answer of another kind";
    Failure::new(Exit::Failed, message, "use the command of the version that the node runs").into()
}
