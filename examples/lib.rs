//! Examples of nxd, one short program a door: see the other files of this folder.
