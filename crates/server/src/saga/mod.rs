//! Sagas at the edge: what their steps are written as, and what their calls send.

pub(crate) mod sent;
pub mod template;
pub(crate) mod work;
