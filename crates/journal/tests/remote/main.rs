//! The journals on servers, which the tests start themselves.

mod beside;
mod cuts;
mod differential;
mod directory;
mod etcd;
mod history;
mod listener;
mod patience;
mod postgres;
mod speed;
