"""Rates, periods, budgets, the ledger and its roll-ups: by example and by property."""

import json
import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import MachineError
from llmops.gateway.money import (
    Account,
    BudgetConfig,
    BudgetExceeded,
    MoneyConfig,
    Outcome,
    Payer,
    Purchase,
    prompt_bound,
)
from llmops.gateway.money.counters import Claim, Counters
from llmops.gateway.money.entry import COLUMNS, LedgerEntry
from llmops.gateway.money.ledger import Ledger
from llmops.gateway.money.periods import FOREVER, period_of
from llmops.gateway.money.rates import Rates, pico, usd
from llmops.gateway.money.spool import HEADER, Segment
from llmops.gateway.money.store import SqliteStore
from llmops.prices import Override, PriceBook, PriceSheet, Rate, Usage, price, price_book

DOLLAR_BOOK = PriceBook((Override("m*", PriceSheet(Rate(Decimal(1)), Rate(Decimal(2)), "test", date(2026, 1, 1))),))
WEB, OTHER = Payer("acme", "web", "k1"), Payer("acme", "web", "k2")
M = Purchase("m-1", None, "m-1")
OK = Outcome(200, 10, 2)

# ---- rates ----

MONEY = st.decimals(0, 500, places=4)


@settings(deadline=None)
@given(
    st.tuples(MONEY, MONEY, st.none() | MONEY, st.none() | MONEY, st.none() | MONEY, st.none() | MONEY),
    st.tuples(*[st.integers(0, 300_000)] * 6),
)
def test_integer_rates_are_the_sheet(rates, counts):
    into, out, read, write, write_1h, reasoning = (None if rate is None else Rate(rate) for rate in rates)
    sheet = PriceSheet(into, out, "test", None, read, write, write_1h, reasoning)
    plain, spoken, cached, written, hour, thought = counts
    usage = Usage(plain + cached + written + hour, spoken + thought, cached, written + hour, hour, thought)
    prepared = Rates.of(sheet)
    assert prepared.exact
    assert prepared.charge_pico(usage) == pico(sheet.charge(usage).amount_usd)
    assert usd(prepared.charge_pico(usage)) == sheet.charge(usage).amount_usd
    assert prepared.bound_pico(usage.input_tokens, usage.output_tokens) >= prepared.charge_pico(usage)


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 50)] * 6))
def test_contradictory_usage_has_no_price_in_either(counts):
    rate = Rate(Decimal(3))
    sheet = PriceSheet(rate, rate, "test", None, rate, rate, rate, rate)
    usage = Usage(*counts)
    known = sheet.charge(usage).amount_usd
    assert Rates.of(sheet).charge_pico(usage) == (None if known is None else pico(known))


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("claude-sonnet-4-20250514", Usage(12_307, 550, cache_write_tokens=12_304), "0.054399"),
        ("gpt-4o", Usage(10_000, 1000, cache_read_tokens=8000), "0.025"),
        ("gemini-2.5-pro", Usage(300_000, 1000, cache_read_tokens=100_000), "0.540"),
    ],
)
def test_known_wrong_bills_come_out_right(model, usage, dollars):
    sheet = price_book().sheet(model)
    prepared = Rates.of(sheet)
    assert usd(prepared.charge_pico(usage)) == Decimal(dollars) == price(model, usage).amount_usd
    assert prepared.bound_pico(usage.input_tokens, usage.output_tokens) >= prepared.charge_pico(usage)


def test_a_thousandth_of_a_cent_per_token_is_not_lost():
    sheet = PriceSheet(Rate(Decimal("0.0375")), Rate(Decimal("0.15")), "test", None)
    assert Rates.of(sheet).charge_pico(Usage(1, 0)) == 37_500
    third = PriceSheet(Rate(Decimal(1) / 3), Rate(Decimal(0)), "test", None)
    assert Rates.of(third).charge_pico(Usage(3, 0)) == 1_000_000


# ---- the bound of a prompt ----


@settings(deadline=None)
@given(st.text(max_size=3000))
def test_the_bound_covers_a_byte_level_tokeniser(text):
    body = json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
    assert prompt_bound(body) >= len(text.encode())


def test_images_are_not_counted_as_text():
    image = "A" * 1_000_000
    body = json.dumps({"image_url": {"url": f"data:image/png;base64,{image}"}}).encode()
    assert 6000 < prompt_bound(body) < 7000
    anthropic = json.dumps({"source": {"type": "base64", "media_type": "image/png", "data": image}}).encode()
    assert 6000 < prompt_bound(anthropic) < 7000
    assert prompt_bound(json.dumps({"content": image}).encode()) > 1_000_000


# ---- periods ----


@pytest.mark.parametrize(
    ("at", "period", "zone", "start", "end"),
    [
        ("2026-03-08T12:00", "day", "America/New_York", "2026-03-08T05:00", "2026-03-09T04:00"),  # 23 hours
        ("2026-11-01T12:00", "day", "America/New_York", "2026-11-01T04:00", "2026-11-02T05:00"),  # 25 hours
        ("2026-12-31T15:00", "month", "Asia/Tokyo", "2026-12-31T15:00", "2027-01-31T15:00"),
        ("2026-12-31T14:59", "month", "Asia/Tokyo", "2026-11-30T15:00", "2026-12-31T15:00"),
        ("2026-02-10T00:00", "month", "UTC", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("2026-02-10T00:00", "day", "Asia/Kathmandu", "2026-02-09T18:15", "2026-02-10T18:15"),
    ],
)
def test_periods(at, period, zone, start, end):
    def epoch(text):
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    assert period_of(epoch(at), period, ZoneInfo(zone)) == (epoch(start), epoch(end))


def test_total_never_ends():
    assert period_of(1e9, "total", ZoneInfo("UTC")) == (0, FOREVER)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 4_000_000_000),
    st.sampled_from(["day", "month"]),
    st.sampled_from(["UTC", "Asia/Tokyo", "America/Sao_Paulo", "Africa/Cairo", "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_periods_follow_each_other_without_a_gap(at, period, zone):
    start, end = period_of(at, period, ZoneInfo(zone))
    assert start <= at < end
    assert period_of(end, period, ZoneInfo(zone))[0] == end
    assert period_of(end - 1, period, ZoneInfo(zone)) == (start, end)


# ---- budgets ----


class Clock:
    def __init__(self, at="2026-05-10T10:00:00+00:00"):
        self.now = datetime.fromisoformat(at).timestamp()

    def __call__(self):
        return self.now


@pytest.fixture
def books(tmp_path):
    opened = []

    def open_(*budgets, clock=None, book=DOLLAR_BOOK, **changes):
        config = MoneyConfig(directory=tmp_path / "books", budgets=budgets, **changes)
        account = Account.open(config, book, now=clock or Clock(), start=False)
        opened.append(account)
        return account

    yield open_
    for each in opened:
        each.close()


def budget(name="b", usd="1", **changes):
    return BudgetConfig(name=name, usd=Decimal(usd), **changes)


def spent(account, payer=WEB, model="m-1"):
    return [str(state.spent_usd) for state in account.budgets.states(account.budgets.claims(payer, model))]


def test_reserve_then_settle_then_release(books):
    account = books(budget())
    held = account.reserve("r1", WEB, M, 200_000, 300_000)  # 0.2 + 0.6
    with pytest.raises(BudgetExceeded) as refused:
        account.reserve("r2", WEB, M, 200_001, 0)
    assert (refused.value.status, refused.value.code) == (429, "budget_exceeded")
    assert "'b' of $1.00 per month has $0.20 left, and this request may cost up to $0.200001;" in refused.value.message
    assert "2026-06-01T00:00:00Z" in refused.value.message
    assert refused.value.retry_after_s == pytest.approx(21.583 * 86_400, rel=0.01)
    assert account.settle(held, Usage(100_000, 0), OK).amount_pico == 100_000 * 1_000_000
    assert account.settle(held, Usage(100_000, 0), OK) is None
    account.release(held, OK)
    assert [float(each) for each in spent(account)] == [0.1]
    other = account.reserve("r3", WEB, M, 900_000, 0)
    account.release(other, Outcome(502))
    assert account.reserve("r4", WEB, M, 900_000, 0)


def test_all_counters_or_none(books):
    account = books(budget("tenant", "10", each=("tenant",)), budget("key", "1", each=("key",)))
    account.reserve("r1", WEB, M, 900_000, 0)
    with pytest.raises(BudgetExceeded, match="'key'"):
        account.reserve("r2", WEB, M, 900_000, 0)
    account.reserve("r3", OTHER, M, 900_000, 0)
    states = account.budgets.states(account.budgets.claims(WEB, "m-1"))
    assert [float(each.reserved_usd) for each in states] == [1.8, 0.9]


def test_a_budget_for_some_models_of_one_team(books):
    account = books(budget("big", "1", match={"team": "web", "model": "m-big*"}))
    assert account.budgets.claims(WEB, "m-1") == ()
    assert account.budgets.claims(Payer("acme", "ops", "k"), "m-big-1") == ()
    account.reserve("r", WEB, Purchase("m-big-1", None, "m-big-1"), 1_000_000, 0)
    with pytest.raises(BudgetExceeded):
        account.reserve("s", WEB, Purchase("m-big-2", None, "m-big-2"), 1, 0)


def test_a_total_budget_is_402_without_a_date(books):
    account = books(budget(period="total"))
    with pytest.raises(BudgetExceeded) as refused:
        account.reserve("r", WEB, M, 1_000_001, 0)
    assert (refused.value.status, refused.value.retry_after_s) == (402, None)
    assert "in total has $1.00 left" in refused.value.message


def test_a_soft_budget_only_notifies(books):
    account = books(budget(hard=False))
    for n in range(3):
        held = account.reserve(f"r{n}", WEB, M, 900_000, 0)
        account.settle(held, Usage(900_000, 0), OK)
    assert [float(each) for each in spent(account)] == [2.7]


def test_a_new_day_begins_anew_and_old_requests_do_not_burden_it(books):
    clock = Clock("2026-05-10T14:59:59+00:00")  # one second before midnight in Tokyo
    account = books(budget(period="day", time_zone="Asia/Tokyo"), clock=clock)
    late = account.reserve("r1", WEB, M, 1_000_000, 0)
    with pytest.raises(BudgetExceeded):
        account.reserve("r2", WEB, M, 1, 0)
    clock.now += 2
    account.reserve("r3", WEB, M, 900_000, 0)
    account.settle(late, Usage(1_000_000, 0), OK)
    state = account.budgets.states(account.budgets.claims(WEB, "m-1"))[0]
    assert (float(state.spent_usd), float(state.reserved_usd)) == (0, 0.9)


def test_an_unknown_price_is_refused_under_a_hard_budget_and_never_zero(books):
    account = books(budget(match={"tenant": "acme"}))
    nobody = Purchase("no-such-model-xyz", None, "no-such-model-xyz")
    with pytest.raises(BudgetExceeded) as refused:
        account.reserve("r", WEB, nobody, 1, 1)
    assert refused.value.code == "unknown_price"
    free = account.reserve("s", Payer("other", "", "k"), nobody, 1, 1)
    settled = account.settle(free, Usage(1, 1), OK)
    assert settled.amount_pico is None
    assert "no price is known" in settled.source


def test_usage_that_contradicts_itself_costs_what_was_reserved(books):
    account = books(budget())
    book = PriceBook(
        (
            Override(
                "m*",
                PriceSheet(Rate(Decimal(1)), Rate(Decimal(2)), "t", None, Rate(Decimal(1))),
            ),
        )
    )
    account._book = book
    held = account.reserve("r", WEB, M, 100_000, 0)
    assert account.settle(held, Usage(10, 0, cache_read_tokens=20), OK).amount_pico is None
    assert [float(each) for each in spent(account)] == [0.1]


def test_a_dearer_fallback_reserves_more_or_is_refused(books):
    book = PriceBook(
        (
            Override("cheap", PriceSheet(Rate(Decimal(1)), Rate(Decimal(0)), "t", None)),
            Override("dear", PriceSheet(Rate(Decimal(9)), Rate(Decimal(0)), "t", None)),
        )
    )
    account = books(budget(), book=book)
    held = account.reserve("r", WEB, Purchase("m", None, "cheap"), 100_000, 0)
    account.retarget(held, Purchase("m", None, "dear"))
    assert held.nano == 900_000_000
    account.retarget(held, Purchase("m", None, "cheap"))
    account.reserve("s", WEB, Purchase("m", None, "cheap"), 500_000, 0)
    with pytest.raises(BudgetExceeded):
        account.retarget(held, Purchase("m", None, "dear"))
    account.settle(held, Usage(100_000, 0), OK)
    assert [float(each) for each in spent(account)] == [0.1]


def test_counters_are_made_anew_from_the_ledger(books, tmp_path):
    clock = Clock()
    rules = (budget("month"), budget("day", "5", period="day"), budget("key", "5", each=("key",), period="total"))
    first = books(*rules, clock=clock)
    for n, payer in enumerate((WEB, OTHER)):
        first.settle(first.reserve(f"r{n}", payer, M, 200_000, 0), Usage(200_000, 0), OK)
    clock.now += 86_400
    first.settle(first.reserve("r9", WEB, M, 100_000, 0), Usage(100_000, 0), OK)
    first.close()
    (tmp_path / "books" / "budgets.map").unlink()
    again = books(*rules, clock=clock)
    assert [float(each) for each in spent(again)] == [0.5, 0.1, 0.3]
    books.__closure__[0].cell_contents.remove(first)


def test_a_second_worker_joins_the_counters(books):
    first, second = books(budget()), books(budget())
    first.reserve("r", WEB, M, 600_000, 0)
    with pytest.raises(BudgetExceeded):
        second.reserve("s", WEB, M, 600_000, 0)


class Webhook:
    def __init__(self):
        self.bodies, self.failures = [], 1
        self.arrived = threading.Event()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                failed = webhook.failures > 0
                webhook.failures -= failed
                if not failed:
                    webhook.bodies.append((json.loads(body), self.headers.get("x-llmops-signature"), body))
                    webhook.arrived.set()
                self.send_response(500 if failed else 204)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def test_the_webhook_is_told_once_at_80_and_100_percent_and_tried_again(books, monkeypatch):
    monkeypatch.setattr("llmops.gateway.money.alerts._WAIT_S", 0.01)
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    hook = Webhook()
    try:
        account = books(budget(webhook=hook.url), webhook_secret_env="HOOK_SECRET")
        for n in range(9):
            account.settle(account.reserve(f"r{n}", WEB, M, 100_000, 0), Usage(100_000, 0), OK)
        for _ in range(3):
            with pytest.raises(BudgetExceeded):
                account.reserve("x", WEB, M, 200_000, 0)
        account._alerts.close()
        told = [(body["percent"], body["refused"]) for body, _, _ in hook.bodies]
        assert told == [(80, False), (100, True)]
        body, signature, raw = hook.bodies[0]
        assert body["budget"] == "b"
        assert "$0.8 of $1.00" in body["text"]
        import hashlib
        import hmac

        assert signature == "sha256=" + hmac.new(b"s3cret", raw, hashlib.sha256).hexdigest()
    finally:
        hook.close()


def test_more_counters_than_the_file_holds(tmp_path):
    counters = Counters(tmp_path / "c", capacity=4)
    assert len({counters.slot(f"n{n}") for n in range(4)}) == 4
    assert counters.slot("n2") == counters.slot("n2")
    with pytest.raises(MachineError, match="more budget counters"):
        counters.slot("n4")
    counters.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("rsx"), st.integers(0, 7), st.integers(0, 40)), max_size=60))
def test_counters_behave_as_a_simple_model(tmp_path_factory, steps):
    """reserve, settle and release in any order against plain arithmetic."""
    counters = Counters(tmp_path_factory.mktemp("counters") / "c", capacity=4)
    claim = Claim(counters.slot("a"), 100, 100, hard=True, marks=(), rule=0, name="a")
    held, spent_, reserved = {}, 0, 0
    for what, name, amount in steps:
        if what == "r" and name not in held:
            refused = counters.reserve([claim], amount)
            assert (refused is not None) == (spent_ + reserved + amount > 100)
            if refused is None:
                held[name] = amount
                reserved += amount
        elif what in "sx" and name in held:
            mine = held.pop(name)
            bill = min(amount, mine) if what == "s" else 0
            counters.settle([claim], mine, bill)
            reserved -= mine
            spent_ += bill
        state = counters.read(claim)
        assert (state.spent, state.reserved) == (spent_, reserved)
    counters.close()


# ---- ledger ----


def entry(request_id="r", at=1000.0, amount=5, **changes):
    base = dict(
        zip(
            COLUMNS,
            (request_id, at, "t", "", "k", "m", "p", "m", 200, "settled", 10, 2, 0, 0, 0, 0, 0, False, amount, None, "s",
             "", "", False, 1, None),
            strict=True,
        )
    )  # fmt: skip
    return LedgerEntry(**(base | changes))


def rows_of(path):
    store = SqliteStore(path / "ledger.sqlite")
    found = list(store.rows(0, 1e12))
    store.close()
    return found


def test_a_database_that_fails_for_a_while_loses_nothing(books, tmp_path):
    account = books(budget(usd="1000"), flush_s=0.02)

    class Failing:
        def __init__(self, inner):
            self.inner, self.down = inner, True

        def __getattr__(self, name):
            if self.down and name == "insert":
                raise OSError("disk I/O error")
            return getattr(self.inner, name)

    failing = account.ledger._store = Failing(account.ledger._store)
    account.ledger.start()
    for n in range(50):
        account.settle(account.reserve(f"r{n}", WEB, M, 10, 10), Usage(10, 10), OK)
    waiting = threading.Event()
    for _ in range(500):
        if account.ledger.health.failures:
            break
        waiting.wait(0.01)
    assert account.ledger.health.last_error == "disk I/O error"
    assert rows_of(tmp_path / "books") == []
    failing.down = False
    for _ in range(500):
        if account.ledger.health.rows_written == 50:
            break
        waiting.wait(0.01)
    assert len(rows_of(tmp_path / "books")) == 50


def test_a_spool_that_is_full_goes_on_in_another_with_what_is_in_flight(books, tmp_path):
    account = books(spool_mib=0.01)
    held = account.reserve("long", WEB, M, 10, 10)
    for n in range(200):
        account.settle(account.reserve(f"r{n}", WEB, M, 10, 10), Usage(10, 10), OK)
    assert account.ledger.health.rotations >= 2
    account.ledger.flush()
    assert len(list((tmp_path / "books").glob("spool-*.log"))) <= 2
    account.settle(held, Usage(1, 1), OK)
    account.ledger.flush()
    assert len({row.request_id for row in rows_of(tmp_path / "books")}) == 201


def test_at_the_bound_of_the_spool_requests_are_refused_before_they_cost(books):
    from llmops.gateway.money.ledger import LedgerFullError

    account = books(budget(usd="1000"), spool_mib=0.01, max_spool_mib=0.03)

    def many():
        for n in range(1000):
            account.settle(account.reserve(f"r{n}", WEB, M, 10, 10), Usage(10, 10), OK)

    with pytest.raises(LedgerFullError):
        many()
    state = account.budgets.states(account.budgets.claims(WEB, "m-1"))[0]
    assert state.reserved_usd == 0


def test_more_requests_in_flight_than_a_spool_file_holds(books, tmp_path):
    account = books(spool_mib=0.01)
    held = [account.reserve(f"r{n}", WEB, M, 10, 10) for n in range(300)]
    for each in held:
        account.settle(each, Usage(1, 1), OK)
    account.ledger.flush()
    assert len(rows_of(tmp_path / "books")) == 300


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.integers(0, 2000))
def test_a_spool_cut_anywhere_gives_whole_records_only(tmp_path_factory, payloads, cut):
    path = tmp_path_factory.mktemp("spool") / "s"
    segment = Segment(path, 2048)
    kept = [payload for payload in payloads if segment.append(payload)]
    segment.close()
    raw = bytearray(path.read_bytes())
    raw[HEADER + cut :] = bytes(len(raw) - min(len(raw), HEADER + cut))
    path.write_bytes(raw[:2048])
    again = Segment(path)
    found = [payload for _, payload in again.records(HEADER)]
    again.close()
    assert found == kept[: len(found)]


def test_a_bill_replaces_the_mark_of_a_lost_request_and_nothing_replaces_a_bill(tmp_path):
    store = SqliteStore(tmp_path / "l.sqlite")
    store.insert([entry(state="in_flight", amount=99)])
    store.insert([entry(amount=5)])
    store.insert([entry(amount=7), entry(state="in_flight", amount=99)])
    [row] = store.rows(0, 1e9)
    assert (row.amount_pico, row.state) == (5, "settled")
    store.close()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.none() | st.integers(0, 10**18), st.sampled_from("ab"), st.booleans()),
        max_size=40,
    ),
    st.integers(0, 10_000),
)
def test_rolling_up_changes_no_sum(tmp_path_factory, rows, before):
    store = SqliteStore(tmp_path_factory.mktemp("store") / "l.sqlite")
    store.insert(
        [
            entry(f"r{n}", float(at), amount, model=model, estimated=est)
            for n, (at, amount, model, est) in enumerate(rows)
        ]
    )

    def sums():
        found = {}
        for row in store.sums(0, 1e9, ("model", "tenant")):
            key = (row.bucket, row.values)
            known = found.get(key, (0,) * 12)
            numbers = (row.requests, row.unknown, row.estimated, row.amount_pico, row.saved_pico, *row.tokens)
            found[key] = tuple(map(sum, zip(known, numbers, strict=True)))
        return found

    expected = sums()
    while store.roll_up(before):
        pass
    assert sums() == expected
    assert all(row.at >= before - 900 for row in store.rows(0, 1e9))
    store.insert([entry("late", 10.0, 1)])
    while store.roll_up(before):
        pass
    assert sum(value[0] for value in sums().values()) == len(rows) + 1
    store.close()


def test_more_rows_than_are_kept_become_sums(tmp_path):
    """Ten million requests are ten million rows for an hour, and a sum for each quarter of an hour afterwards."""
    now = 1_000_000_000.0
    store = SqliteStore(tmp_path / "l.sqlite")
    store.insert([entry(f"r{n}", now - 86_400 + n * 10, 7) for n in range(8_000)])  # the last ones are minutes old
    ledger = Ledger(tmp_path, store, keep_days=30, keep_rows=1000, now=lambda: now)
    while not ledger._rolled_at:
        ledger._maintain()
    kept = list(store.rows(0, 1e12))
    assert 300 < len(kept) <= 1100
    assert sum(row.amount_pico for row in store.sums(0, 1e12, ())) == 8_000 * 7
    assert min(row.at for row in kept) > now - 86_400 + 8_000 * 10 - 3600 * 4
    ledger.close()


def test_one_that_was_alone_lets_another_in(tmp_path):
    """Alone, a worker keeps the lock of the budgets' file; with another one both are bound by the same counters."""
    config = MoneyConfig(directory=tmp_path, budgets=(BudgetConfig(name="all", usd=Decimal("0.003"), period="total"),))
    first = Account.open(config, DOLLAR_BOOK, single=True)
    held = first.reserve("a", WEB, M, 1000, 0)
    assert first.budgets.counters._lock.kept
    second = Account.open(config, DOLLAR_BOOK, start=False)
    assert not first.budgets.counters._lock.kept
    spent = second.reserve("b", WEB, M, 1000, 0)
    with pytest.raises(BudgetExceeded):
        second.reserve("c", WEB, M, 2000, 0)
    with pytest.raises(BudgetExceeded):
        first.reserve("d", WEB, M, 2000, 0)
    first.settle(held, Usage(1000, 0), OK)
    second.settle(spent, Usage(1000, 0), OK)
    second.close()
    first.close()
