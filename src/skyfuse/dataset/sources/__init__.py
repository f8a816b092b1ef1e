"""What a dataset is made from: a module for each kind of source, behind one protocol."""
