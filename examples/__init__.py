"""Examples that the tests run; a package, since others install packages of that name."""
