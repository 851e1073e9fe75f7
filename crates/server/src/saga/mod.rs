//! Sagas at the edge: what their steps are written as.

pub mod template;
