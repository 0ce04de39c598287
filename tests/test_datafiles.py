from calls_mcp.datafiles import CONFIG, PROMPTS


def test_the_data_lie_where_the_package_looks_for_them() -> None:
    assert (CONFIG / "types.toml").is_file()
    assert (PROMPTS / "place_call.md").is_file()
