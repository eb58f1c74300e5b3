"""Folders of photographs to files of features."""
