"""What is made of the code for docs/: the protocol and the picture. The tests of tests/documents compare and run it."""
