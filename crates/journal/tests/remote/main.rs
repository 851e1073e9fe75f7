//! The journals on servers, which the tests start themselves.

mod beside;
mod certificates;
mod cuts;
mod differential;
mod directory;
mod etcd;
mod history;
mod listener;
mod patience;
mod postgres;
mod speed;
