"""Engines run a trained model as fast as the machine allows: one interface, one file per engine."""
