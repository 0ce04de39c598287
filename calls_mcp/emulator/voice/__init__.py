"""Programmable voice: instructions are fetched and executed, and the other party reacts."""
