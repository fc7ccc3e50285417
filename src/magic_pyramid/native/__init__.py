"""The native engine in C++: its sources, how it is built, and how Python calls it."""
