//! One small file per man-page family. With `kernel::uring`, the only home of `unsafe`.

pub mod affinity;
pub mod bytes;
pub mod epoll;
pub mod hatch;
pub mod limits;
pub mod listen;
pub mod memory;
pub mod privilege;
pub mod stack;
pub mod stderr;
pub mod table;
pub mod zone;
