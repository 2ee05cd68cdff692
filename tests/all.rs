//! Every integration test, as one binary: one link instead of twenty.
