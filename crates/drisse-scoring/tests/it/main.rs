//! The scoring server as its clients meet it: the whole program in process, a fake engine behind it.

mod bad_requests;
mod life;
mod limits;
mod overload;
mod support;
