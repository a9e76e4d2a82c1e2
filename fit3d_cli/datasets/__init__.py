"""Labelled pictures for the probes; one file per dataset."""
