//! PostgreSQL and Aurora PostgreSQL.
