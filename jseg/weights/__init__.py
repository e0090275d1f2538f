"""Weight files of every kind -> arrays, and arrays -> modules; no code of a file runs."""
