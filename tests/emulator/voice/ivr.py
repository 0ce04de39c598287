"""A phone menu with Flask and Twilio's library. Copy it to start your own.

Each request must have a valid signature. `RequestValidator` checks it, and `app.config` has the
auth token.
"""

# pyright: basic, reportUnusedCallResult=false
# because Twilio's library has no types

from flask import Flask, Response, abort, current_app, request, url_for
from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Gather, VoiceResponse

DEPARTMENTS = {"1": "sales", "2": "support", "3": "billing"}
LANGUAGES = {"1": "English", "2": "Spanish", "3": "German"}
OPERATOR = "+12025550150"


def ivr(auth_token: str) -> Flask:
    """Return the application: choose a language, a department, and what to do there."""
    app = Flask(__name__)
    app.config["AUTH_TOKEN"] = auth_token
    app.before_request(_require_signature)
    for rule, view in (
        ("/voice", _languages),
        ("/departments", _departments),
        ("/actions", _actions),
        ("/do", _do),
        ("/goodbye", _goodbye),
    ):
        app.add_url_rule(rule, view_func=view, methods=["POST"])
    return app


def _require_signature() -> None:
    validator = RequestValidator(current_app.config["AUTH_TOKEN"])
    signature = request.headers.get("X-Twilio-Signature", "")
    if not validator.validate(request.url, request.form, signature):
        abort(403)


def _languages() -> Response:
    return _menu(url_for("_departments"), "Press 1 for English, 2 for Spanish, 3 for German.")


def _departments() -> Response:
    language = LANGUAGES.get(request.form["Digits"])
    if language is None:
        return _end("This is not a language.")
    text = f"{language}. Press 1 for sales, 2 for support, 3 for billing."
    return _menu(url_for("_actions", language=language), text)


def _actions() -> Response:
    department = DEPARTMENTS.get(request.form["Digits"])
    if department is None:
        return _end("There is no such department.")
    text = f"{department}. Press 1 to talk to us, 2 to leave a message, 3 for our hours."
    return _menu(url_for("_do", department=department), text)


def _do() -> Response:
    department = request.args["department"]
    response = VoiceResponse()
    match request.form["Digits"]:
        case "1":
            response.dial(OPERATOR, action=url_for("_goodbye"))
        case "2":
            response.say(f"Leave a message for {department}.")
            response.record(action=url_for("_goodbye"), timeout=2)
        case "3":
            response.say(f"{department} is open all day.")
        case _:
            return _end("That is not possible.")
    return _twiml(response)


def _goodbye() -> Response:
    is_message = "RecordingSid" in request.form
    return _end("We have your message." if is_message else "Thank you for your call.")


def _menu(action: str, text: str) -> Response:
    response = VoiceResponse()
    gather = Gather(num_digits=1, timeout=3, action=action)
    gather.say(text)
    response.append(gather)
    response.say("We have heard nothing.")
    return _twiml(response)


def _end(text: str) -> Response:
    response = VoiceResponse()
    response.say(text)
    return _twiml(response)


def _twiml(response: VoiceResponse) -> Response:
    return Response(str(response), mimetype="text/xml")
