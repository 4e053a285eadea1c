//! Proves that a deployment is checked: a valid component, but of an empty world, so that it neither exports `reranker` nor imports anything.
