"""Photographs and type faces of Debian packages, at training time only, and pictures made of them."""
