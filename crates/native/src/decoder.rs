//! stub
#[derive(Default)]
pub(crate) struct Tables;
