//! The rules of a saga, one test each.
