"""Refs: what a step has made, or an image brings: blobs, directories, or a slice of the build context.

A tree is a stack of layers, lowest first. A layer is a blob (somewhere: in the store, in a registry),
a directory in overlay form, or both; either is made of the other, or fetched, when somebody needs it.
So a cache hit is a stack of blobs that nobody has pulled, and a RUN step's result a directory that nobody
has packed. `store.RefStore` is the way in; it lives on the loop's thread, the work is done on others.
"""
