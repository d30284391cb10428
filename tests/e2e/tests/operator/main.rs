//! The operator's parts by themselves on a real API server: migrations, the Lease, the process's life. Each runs with
//! the rights of deploy/rbac and no other.

mod lease;
mod lifecycle;
mod migration;
mod setup;
