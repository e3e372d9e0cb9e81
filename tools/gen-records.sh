#!/bin/sh
# Writes crates/ghost-image/src/gen/ghost.v1.rs anew from crates/ghost-image/proto/ghost.proto.
# Run it after every change of ghost.proto, and after a merge that touched either file. Needs no protoc.
set -e
cd "$(dirname "$0")/gen-records"
exec cargo run --quiet --locked
