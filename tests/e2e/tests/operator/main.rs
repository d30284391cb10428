//! Single parts of the operator on a real API server: migrations, the Lease, the life of the process. Each
//! runs with exactly the permissions of deploy/rbac.

mod lease;
mod lifecycle;
mod migration;
mod setup;
