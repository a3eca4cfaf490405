"""The server of a vote: what it shows, to whom, what it keeps, and that no request breaks it."""

import json
import re

import pytest
from browser import ADDRESS
from PIL import Image
from starlette.testclient import TestClient

from ldm.app.ballots import Ballots
from ldm.app.voting import create_voting_app
from ldm.util.errors import UserError

TOKEN = "t" * 43
NAMES = [f"{index:012x}" for index in range(8)]
DEEP = "[" * 50_000 + "]" * 50_000


def write_folder(folder):
    """Eight pairs with pictures, the first with a photograph, and a key beside the folder."""
    (folder / "votes/pictures").mkdir(parents=True)
    entries = []
    for name in NAMES:
        entry = {"pair": name, "asked": "a <b>cat</b>"}
        for side in ("left", "right", *(["photograph"] if name == NAMES[0] else [])):
            entry[side] = f"pictures/{name}_{'before' if side == 'photograph' else side}.png"
            Image.new("RGB", (4, 4)).save(folder / "votes" / entry[side])
        entries.append(entry)
    (folder / "votes/pairs.json").write_text(json.dumps(entries))
    (folder / "votes_key.json").write_text("secret")
    return folder / "votes"


@pytest.fixture
def ballots(tmp_path):
    return Ballots(write_folder(tmp_path), tmp_path / "votes.jsonl")


@pytest.fixture
def voter(ballots):
    with client(ballots, Authorization=f"Bearer {TOKEN}") as voter:
        yield voter


def client(ballots, **headers):
    app = create_voting_app(ballots, TOKEN)
    return TestClient(app, base_url=ADDRESS, headers=headers, raise_server_exceptions=False)


def cast(voter, pair, choice, rater="ada"):
    return voter.post("/api/votes", json={"rater": rater, "pair": pair, "choice": choice})


def test_each_rater_gets_all_pairs_in_an_order_of_their_own_that_stays(voter):
    orders = [[pair["pair"] for pair in voter.get("/api/pairs", params={"rater": r}).json()["pairs"]] for r in "abba"]
    assert orders[0] == orders[3] != orders[1] == orders[2] and all(sorted(order) == NAMES for order in orders)


def test_votes_are_kept_replaced_and_taken_back(voter, ballots, tmp_path):
    for pair, choice in ((NAMES[0], "left"), (NAMES[1], "tie"), (NAMES[0], "right"), (NAMES[1], None)):
        assert cast(voter, pair, choice).status_code == 200
    assert cast(voter, NAMES[0], "left", rater="  bob   b ").status_code == 200
    lines = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
    assert lines == [
        {"pair": NAMES[0], "choice": "right", "rater": "ada"},
        {"pair": NAMES[0], "choice": "left", "rater": "bob b"},
    ]
    again = Ballots(ballots.folder, tmp_path / "votes.jsonl")  # a server that was started anew
    assert {each["pair"]: each["choice"] for each in again.of_rater("ada")}[NAMES[0]] == "right"


def test_nothing_that_is_served_names_a_model_or_others_votes(voter):
    cast(voter, NAMES[3], "left", rater="bob")
    answer = voter.get("/api/pairs", params={"rater": "ada"}).json()["pairs"]
    assert {key for each in answer for key in each} == {"pair", "asked", "photograph", "choice"}
    assert all(each["choice"] is None for each in answer)
    for path in ("votes_key.json", "../votes_key.json", "%2e%2e/votes_key.json", "pairs.json", "votes.jsonl"):
        for place in ("/", "/static/", "/api/", f"/api/pairs/{NAMES[0]}/", "/api/pairs/"):
            assert "secret" not in voter.get(place + path).text


def test_pictures_are_those_of_the_pair(voter):
    for side, status in (("left", 200), ("right", 200), ("photograph", 200), ("before", 404), ("..", 404)):
        assert voter.get(f"/api/pairs/{NAMES[0]}/{side}.png").status_code == status
    assert voter.get(f"/api/pairs/{NAMES[1]}/photograph.png").status_code == 404
    assert voter.get("/api/pairs/nothing/left.png").status_code == 404


def test_every_route_needs_the_token_and_a_name_of_this_machine(ballots):
    routes = (("GET", "/api/pairs?rater=a"), ("POST", "/api/votes"), ("GET", f"/api/pairs/{NAMES[0]}/left.png"))
    with client(ballots) as stranger:
        for method, path in routes:
            assert stranger.request(method, path).status_code == 401
            wrong = stranger.request(method, path, headers={"Authorization": "Bearer x"})
            assert wrong.status_code == 403
            rebound = {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}
            assert stranger.request(method, path, headers=rebound).status_code == 403
            other = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}
            assert stranger.request(method, path, headers=other).status_code == 403


def test_the_page_is_served_with_a_policy_that_runs_no_script_but_its_own(ballots):
    with client(ballots) as stranger:
        page = stranger.get("/")
        assert page.status_code == 200 and "script-src 'self'" in page.headers["content-security-policy"]
        files = re.findall(r'(?:src|href)="([^"]*)"', page.text)
        assert files == ["static/icon.svg", "static/votes.css", "static/votes.js"]
        assert all(stranger.get(f"/{file}").status_code == 200 for file in files)
        assert not re.search(r"<script[^>]*>[^<]|style=", page.text)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "{",
        DEEP,
        '{"rater": 1, "pair": "x", "choice": "left"}',
        '{"rater": "", "pair": "PAIR", "choice": "left"}',
        '{"rater": "LONG", "pair": "PAIR", "choice": "left"}',
        '{"rater": "\\ud800", "pair": "PAIR", "choice": "left"}',
        '{"rater": "a", "pair": "PAIR", "choice": "base"}',
        '{"rater": "a", "pair": "../x", "choice": "left"}',
        '{"rater": "a", "pair": "PAIR", "choice": "left", "more": 1}',
        " " * (1 << 21),
    ],
)
def test_hostile_votes_are_one_sentence_and_keep_nothing(voter, tmp_path, body):
    answer = voter.post("/api/votes", content=body.replace("PAIR", NAMES[0]).replace("LONG", "x" * 61))
    assert 400 <= answer.status_code < 500
    assert "\n" not in answer.json()["error"] and "Traceback" not in answer.text
    assert not (tmp_path / "votes.jsonl").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "[]",
        "{",
        "3",
        json.dumps([{"pair": NAMES[0]}]),
        json.dumps([{"pair": "../../etc", "left": "x", "right": "y"}]),
        json.dumps([{"pair": NAMES[0], "left": "../votes_key.json", "right": f"pictures/{NAMES[0]}_right.png"}]),
        json.dumps([{"pair": NAMES[0], "left": "/etc/passwd", "right": f"pictures/{NAMES[0]}_right.png"}]),
        DEEP,
    ],
)
def test_a_damaged_folder_is_one_sentence(tmp_path, damage):
    folder = write_folder(tmp_path)
    (folder / "pairs.json").write_text(damage)
    with pytest.raises(UserError, match="pairs.json") as error:
        Ballots(folder, tmp_path / "votes.jsonl")
    assert "\n" not in str(error.value)


def test_a_damaged_file_of_votes_is_named_with_its_line(tmp_path):
    folder = write_folder(tmp_path)
    good = json.dumps({"pair": NAMES[0], "choice": "left", "rater": "a"})
    for bad in ("{", "[]", '{"pair": [], "choice": "left", "rater": "a"}', good.replace("left", "model"), "1"):
        (tmp_path / "votes.jsonl").write_text(f"{good}\n{bad}\n")
        with pytest.raises(UserError, match=r"votes\.jsonl, line 2"):
            Ballots(folder, tmp_path / "votes.jsonl")
