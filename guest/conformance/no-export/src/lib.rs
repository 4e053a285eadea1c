//! Proves that a deployment is checked: a valid component of an empty world, which neither exports `reranker` nor
//! imports anything.
