"""Decide about changes: policy, previews, confirmations, limits, and sending once."""
