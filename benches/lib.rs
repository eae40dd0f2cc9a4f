//! Criterion benches of nxd, one file a layer: see the `[[bench]]` entries of this package.
