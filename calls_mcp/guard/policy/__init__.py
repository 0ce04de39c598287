"""The operator's policy: `config/policy.toml`, overridden by a file of the operator.

`evaluation.judge` applies it to an invocation before anyone is asked to confirm.
"""
