"""What the model APIs accept as a tool, with the source of each rule.

If no document has a rule, the source is an error message of the API. Not documented: the maximum
length of a description (except in an error of OpenAI's API) or of a pattern; Gemini's limits for
depth and size; and whether Gemini's `parametersJsonSchema` accepts `pattern`, `maxLength` and
`default`, which are not in its list for `responseJsonSchema`.
"""

from tests.models.checker import Rule

_CLAUDE_TOOLS = "Claude docs, Define tools, 'Specifying client tools'"
_CLAUDE_API = "Claude API reference, Messages, tools.input_schema (as in anthropic 2.14, ToolParam)"
_CLAUDE_SAYS = "Claude API, 400 invalid_request_error: tools.N.custom.input_schema"
_CLAUDE_STRICT = "Claude docs, Structured outputs, 'JSON Schema limitations'"
_CLAUDE_PATTERNS = "Claude docs, Structured outputs, 'Pattern support (regex)'"
_CLAUDE_LIMITS = "Claude docs, Structured outputs, 'Schema complexity limits'"
_OPENAI_API = "OpenAI API reference, FunctionDefinition (as in openai 3.57)"
_OPENAI_SAYS = "OpenAI API, 400 invalid_request_error: tools[N].function"
_OPENAI_STRICT = "OpenAI docs, Structured model outputs, 'Supported schemas'"
_OPENAI_SAID = "OpenAI API, 400: 'default' is not permitted (2024-10 to 2025-03; taken since)"
_GEMINI_API = "Gemini API reference, FunctionDeclaration (as in google-genai 3.6)"
_GEMINI_SCHEMA = "Gemini API reference, Schema (as in google-genai 3.6)"
_GEMINI_SAYS = "Gemini API, 400 INVALID_ARGUMENT: function_declarations[N].parameters"

_NUMBERS = frozenset({"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"})
_LENGTHS = frozenset({"minLength", "maxLength"})
_TYPES = frozenset({"string", "number", "boolean", "integer", "object", "array", "null"})
_PRIMITIVES = (str, int, float, bool, type(None))

CLAUDE = (
    Rule("tool name", r"[a-zA-Z0-9_-]{1,128}", _CLAUDE_TOOLS),
    Rule("JSON Schema", None, _CLAUDE_API),
    Rule("root is an object", None, _CLAUDE_API),
    Rule("root without", {"oneOf", "allOf", "anyOf"}, _CLAUDE_SAYS),
    Rule("property name", r"[a-zA-Z0-9_.-]{1,64}", _CLAUDE_SAYS),
)

CLAUDE_STRICT = (
    *CLAUDE,
    Rule("types", _TYPES, _CLAUDE_STRICT),
    Rule("closed", None, _CLAUDE_STRICT),
    Rule("without", _NUMBERS | _LENGTHS | {"maxItems", "uniqueItems"}, _CLAUDE_STRICT),
    Rule("minItems", (0, 1), _CLAUDE_STRICT),
    Rule("enum of", _PRIMITIVES, _CLAUDE_STRICT),
    Rule("local $ref", None, _CLAUDE_STRICT),
    Rule(
        "format",
        (
            "date-time",
            "time",
            "date",
            "duration",
            "email",
            "hostname",
            "uri",
            "ipv4",
            "ipv6",
            "uuid",
        ),
        _CLAUDE_STRICT,
    ),
    Rule("pattern", r"\\[1-9bB]|\(\?<?[=!]", _CLAUDE_PATTERNS),
    Rule("tools", 20, _CLAUDE_LIMITS),
    Rule("optional parameters", 24, _CLAUDE_LIMITS),
    Rule("union types", 16, _CLAUDE_LIMITS),
)

OPENAI = (
    Rule("tool name", r"[a-zA-Z0-9_-]{1,64}", _OPENAI_API),
    Rule("JSON Schema", None, _OPENAI_API),
    Rule("description length", 1024, _OPENAI_SAYS),
    Rule("root is an object", None, _OPENAI_SAYS),
    Rule("root without", {"oneOf", "anyOf", "allOf", "enum", "not"}, _OPENAI_SAYS),
)

OPENAI_STRICT = (
    *OPENAI,
    Rule("types", _TYPES, _OPENAI_STRICT),
    Rule(
        "keywords",
        _NUMBERS
        | {"type", "properties", "required", "additionalProperties", "items", "description"}
        | {"enum", "const", "anyOf", "$ref", "$defs", "pattern", "format", "minItems", "maxItems"},
        _OPENAI_STRICT,
    ),
    Rule("without", {"default"}, _OPENAI_SAID),
    Rule("closed", None, f"{_OPENAI_STRICT}: 'additionalProperties: false'"),
    Rule("all required", None, f"{_OPENAI_STRICT}: 'All fields must be required'"),
    Rule(
        "format",
        ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"),
        _OPENAI_STRICT,
    ),
    Rule("levels", 10, f"{_OPENAI_STRICT}: 'limitations on nesting depth and size'"),
    Rule("properties", 5000, f"{_OPENAI_STRICT}: 'limitations on nesting depth and size'"),
    Rule("characters", 120_000, f"{_OPENAI_STRICT}: 'Limitations on total string size'"),
    Rule("enum values", 1000, f"{_OPENAI_STRICT}: 'Limitations on enum size'"),
    Rule("enum characters", (250, 15_000), f"{_OPENAI_STRICT}: 'Limitations on enum size'"),
)

GEMINI = (
    Rule("tool name", r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}", _GEMINI_API),
    Rule("property name", r"[a-zA-Z_][a-zA-Z0-9_]{0,63}", _GEMINI_API),
    Rule("root is an object", None, _GEMINI_API),
    Rule(
        "keywords",
        {"additionalProperties", "defs", "ref", "anyOf", "default", "description", "enum"}
        | {"example", "format", "items", "maxItems", "maxLength", "maxProperties", "maximum"}
        | {"minItems", "minLength", "minProperties", "minimum", "nullable", "pattern"}
        | {"properties", "propertyOrdering", "required", "title", "type"},
        _GEMINI_SCHEMA,
    ),
    Rule("types", _TYPES, _GEMINI_SCHEMA),
    Rule("one type", None, _GEMINI_SCHEMA),
    Rule("enum of", str, _GEMINI_SCHEMA),
    Rule("format", ("enum", "date-time"), f"{_GEMINI_SAYS}: only these for STRING"),
    Rule("items", None, f"{_GEMINI_SAYS}.items: missing field"),
    Rule("required is known", None, f"{_GEMINI_SAYS}.required: property is not defined"),
)

APIS = {
    "claude": CLAUDE,
    "claude strict": CLAUDE_STRICT,
    "openai": OPENAI,
    "openai strict": OPENAI_STRICT,
    "gemini": GEMINI,
}
