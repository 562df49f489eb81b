"""Data: the drawings that ship with the package, data sets that the user provides, and the streams made from them."""
