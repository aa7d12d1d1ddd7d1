"""Defences against untrusted input: text written by others, and files that other accounts plant in our folders."""
