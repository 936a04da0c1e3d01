"""Makers of technical documents: code with tests, data formats, logs with a diagnosis, queries, definitions."""

from __future__ import annotations

import json
import random

Document = dict[str, object]


def chat(lang: str, question: str, answer: str) -> Document:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"lang": lang, "messages": messages}


FUNCTIONS = (
    (
        "moving average of the last n values",
        "直近n個の移動平均",
        "def moving_average(values, n):\n    total, out = 0.0, []\n    for i, value in enumerate(values):\n        total += value\n        if i >= n:\n            total -= values[i - n]\n        if i >= n - 1:\n            out.append(total / n)\n    return out\n",
        "assert moving_average([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]",
    ),
    (
        "merge of overlapping intervals",
        "重なる区間の併合",
        "def merge(intervals):\n    out = []\n    for start, end in sorted(intervals):\n        if out and start <= out[-1][1]:\n            out[-1] = (out[-1][0], max(out[-1][1], end))\n        else:\n            out.append((start, end))\n    return out\n",
        "assert merge([(5, 7), (1, 3), (2, 4)]) == [(1, 4), (5, 7)]",
    ),
    (
        "first character that does not repeat",
        "繰り返さない最初の文字",
        "from collections import Counter\n\ndef first_unique(text):\n    counts = Counter(text)\n    return next((c for c in text if counts[c] == 1), None)\n",
        "assert first_unique('swiss') == 'w'",
    ),
    (
        "binary search for the insertion point",
        "挿入位置の二分探索",
        "def insertion_point(items, wanted):\n    low, high = 0, len(items)\n    while low < high:\n        middle = (low + high) // 2\n        if items[middle] < wanted:\n            low = middle + 1\n        else:\n            high = middle\n    return low\n",
        "assert insertion_point([1, 4, 4, 9], 4) == 1",
    ),
    (
        "conversion of inches in fractions to centimetres",
        "分数のインチからセンチへの換算",
        "from fractions import Fraction\n\ndef to_cm(text):\n    inches = sum(Fraction(part) for part in text.split())\n    return round(float(inches) * 2.54, 2)\n",
        "assert to_cm('3 1/2') == 8.89",
    ),
    (
        "retry with growing pauses",
        "間隔を延ばしながらの再試行",
        "import time\n\ndef retry(call, attempts=4, pause_s=0.5):\n    for attempt in range(attempts):\n        try:\n            return call()\n        except ConnectionError:\n            if attempt == attempts - 1:\n                raise\n            time.sleep(pause_s * 2 ** attempt)\n",
        "assert retry(lambda: 7) == 7",
    ),
    (
        "grouping of rows by a key",
        "キーによる行のグループ化",
        "def group_by(rows, key):\n    groups = {}\n    for row in rows:\n        groups.setdefault(row[key], []).append(row)\n    return groups\n",
        "assert list(group_by([{'a': 1}, {'a': 2}, {'a': 1}], 'a')) == [1, 2]",
    ),
    (
        "check digit of a thirteen-digit article number",
        "13桁商品コードのチェックデジット",
        "def check_digit(digits):\n    total = sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(digits))\n    return -total % 10\n",
        "assert check_digit('490123456789') == 4",
    ),
    (
        "depth of nested brackets",
        "括弧の入れ子の深さ",
        "def depth(text):\n    level = deepest = 0\n    for c in text:\n        if c == '(':\n            level += 1\n            deepest = max(deepest, level)\n        elif c == ')':\n            level -= 1\n            if level < 0:\n                raise ValueError('unbalanced')\n    return deepest\n",
        "assert depth('(a(b)c)') == 2",
    ),
    (
        "cache that forgets the oldest entry",
        "最も古い項目を忘れるキャッシュ",
        "from collections import OrderedDict\n\nclass Cache:\n    def __init__(self, size):\n        self.size, self.items = size, OrderedDict()\n\n    def get(self, key, make):\n        if key not in self.items:\n            self.items[key] = make(key)\n            if len(self.items) > self.size:\n                self.items.popitem(last=False)\n        return self.items[key]\n",
        "assert Cache(2).get(3, str) == '3'",
    ),
)


def code(_rng: random.Random) -> list[Document]:
    found = []
    for english, japanese, body, check in FUNCTIONS:
        found.append(
            chat("en", f"Write a Python function for the {english}, with a check.", f"```python\n{body}\n{check}\n```")
        )
        found.append(
            chat(
                "ja",
                f"{japanese}を行うPythonのコードを、確認の式も付けて書いてください。",
                f"```python\n{body}\n{check}\n```",
            )
        )
    return found


LOGS = (
    (
        "disk",
        "ERROR storage: write failed: No space left on device (/var/data)",
        "The disk is full: remove old snapshots or grow the volume, then restart the writer.",
        "ディスクの空きがない。古いスナップショットを消すか容量を増やし、書き込み側を再起動する。",
    ),
    (
        "memory",
        "kernel: Out of memory: Killed process 4121 (python)",
        "The kernel ended the process for lack of memory: lower the batch size or add memory.",
        "メモリ不足でカーネルがプロセスを終了させた。バッチを小さくするか、メモリを増やす。",
    ),
    (
        "dns",
        "WARN client: getaddrinfo failed for cache.internal: Name or service not known",
        "The name does not resolve: check the resolver of this host and the spelling of the service.",
        "名前を解決できない。このホストのDNS設定とサービス名の綴りを確認する。",
    ),
    (
        "tls",
        "ERROR tls: certificate has expired (notAfter=2026-03-01)",
        "The certificate ran out: renew it and reload the server; clients refuse it until then.",
        "証明書の期限が切れている。更新してサーバーを再読み込みするまで、接続は拒否される。",
    ),
    (
        "limit",
        "ERROR api: 429 Too Many Requests, retry-after 12",
        "The quota of the interface is used up: wait for twelve seconds and send fewer requests at once.",
        "呼び出しの上限に達した。十二秒待ち、同時に送る数を減らす。",
    ),
    (
        "lock",
        "ERROR db: deadlock detected; process 88 waits for ShareLock",
        "Two transactions wait for each other: take the locks in the same order in both.",
        "二つの取引が互いを待っている。どちらも同じ順序でロックを取るようにする。",
    ),
    (
        "clock",
        "WARN auth: token used before issued (skew 94 s)",
        "The clocks differ by a minute and a half: start time synchronisation on this host.",
        "時計が一分半ずれている。このホストで時刻の同期を有効にする。",
    ),
)
QUIET = (
    "INFO scheduler: {n} jobs queued",
    "INFO http: GET /health 200 in {n} ms",
    "DEBUG cache: hit ratio 0.{n}",
    "INFO worker-{n}: finished order {m}",
    "INFO backup: {m} objects unchanged",
    "DEBUG pool: {n} connections idle",
)


def logs(rng: random.Random) -> list[Document]:
    found = []
    for n in range(28):
        kind = LOGS[n % len(LOGS)]
        hour, minute = rng.randint(0, 23), rng.randint(0, 57)
        lines = [rng.choice(QUIET).format(n=rng.randint(11, 99), m=rng.randint(1000, 9999)) for _ in range(5)]
        lines.insert(rng.randint(2, 5), kind[1])
        text = "\n".join(
            f"2026-0{rng.randint(1, 9)}-14T{hour:02d}:{minute + k // 3:02d}:{rng.randint(0, 59):02d} {line}"
            for k, line in enumerate(lines)
        )
        if n % 2:
            found.append(chat("ja", f"次のログから原因と対処を答えてください。\n```\n{text}\n```", kind[3]))
        else:
            found.append(chat("en", f"What went wrong here, and what should be done?\n```\n{text}\n```", kind[2]))
    return found


TABLES = {
    "orders": ("id", "customer_id", "ordered_on", "total_yen", "status"),
    "fabrics": ("code", "supplier", "width_cm", "weight_gsm", "price_per_m"),
    "inspections": ("lot", "style", "inspected_on", "defects", "accepted"),
    "staff": ("id", "name", "team", "joined_on", "hours_per_week"),
}
QUERIES = (
    (
        "orders",
        "How many orders per status this year?",
        "今年の注文をステータス別に数えてください。",
        "SELECT status, COUNT(*) AS n\nFROM orders\nWHERE ordered_on >= '2026-01-01'\nGROUP BY status\nORDER BY n DESC;",
    ),
    (
        "orders",
        "Which ten customers spent most?",
        "購入額が多い上位十人の顧客は誰ですか。",
        "SELECT customer_id, SUM(total_yen) AS spent\nFROM orders\nWHERE status <> 'cancelled'\nGROUP BY customer_id\nORDER BY spent DESC\nLIMIT 10;",
    ),
    (
        "fabrics",
        "Average price per supplier of fabrics above 300 g/m².",
        "300 g/m²を超える生地の仕入先別平均単価を出してください。",
        "SELECT supplier, ROUND(AVG(price_per_m), 2) AS average_price\nFROM fabrics\nWHERE weight_gsm > 300\nGROUP BY supplier;",
    ),
    (
        "inspections",
        "Share of accepted lots per month.",
        "月別のロット合格率を求めてください。",
        "SELECT strftime('%Y-%m', inspected_on) AS month,\n       AVG(accepted) AS share\nFROM inspections\nGROUP BY month\nORDER BY month;",
    ),
    (
        "inspections",
        "Styles with more than five defects in any lot.",
        "いずれかのロットで欠点が五件を超えた品番を挙げてください。",
        "SELECT DISTINCT style\nFROM inspections\nWHERE defects > 5\nORDER BY style;",
    ),
    (
        "staff",
        "Teams with fewer than 100 hours a week.",
        "週の合計が百時間に満たない班を調べてください。",
        "SELECT team, SUM(hours_per_week) AS hours\nFROM staff\nGROUP BY team\nHAVING hours < 100;",
    ),
)


def queries(_rng: random.Random) -> list[Document]:
    found = []
    for table, english, japanese, sql in QUERIES:
        schema = f"{table}({', '.join(TABLES[table])})"
        found.append(chat("en", f"Table: {schema}\n{english} Answer with SQL.", f"```sql\n{sql}\n```"))
        found.append(chat("ja", f"テーブル：{schema}\n{japanese}SQLで答えてください。", f"```sql\n{sql}\n```"))
    return found


def records(rng: random.Random) -> list[Document]:
    """The same record as JSON, YAML, CSV and a sentence."""
    found = []
    cities = (
        ("Nagoya", "名古屋"),
        ("Porto", "ポルト"),
        ("Hanoi", "ハノイ"),
        ("İzmir", "イズミル"),
        ("Dhaka", "ダッカ"),
        ("Ichinomiya", "一宮"),
        ("Biella", "ビエッラ"),
    )
    modes = (("sea", "船"), ("air", "航空"), ("rail", "鉄道"))
    for n in range(32):
        city, mode = rng.choice(cities), rng.choice(modes)
        record = {
            "shipment": f"SH-{rng.randint(10000, 99999)}",
            "from": city[0],
            "mode": mode[0],
            "cartons": rng.randint(4, 260),
            "gross_kg": round(rng.uniform(40, 2400), 1),
            "priority": rng.random() < 0.3,
        }
        yaml = "\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in record.items())
        if n % 4 == 0:
            found.append(chat("en", f"Convert to YAML:\n{json.dumps(record, ensure_ascii=False)}", yaml))
        elif n % 4 == 1:
            found.append(
                chat("ja", f"次のYAMLをJSONにしてください。\n{yaml}", json.dumps(record, ensure_ascii=False, indent=2))
            )
        elif n % 4 == 2:
            urgent = "It is urgent." if record["priority"] else "It is not urgent."
            found.append(
                chat(
                    "en",
                    f"Describe this record in one or two sentences.\n{yaml}",
                    f"Shipment {record['shipment']} of {record['cartons']} cartons, {record['gross_kg']} kg gross, leaves {city[0]} by {mode[0]}. {urgent}",
                )
            )
        else:
            found.append(
                chat(
                    "ja",
                    f"この記録を文章で説明してください。\n{json.dumps(record, ensure_ascii=False)}",
                    f"出荷番号{record['shipment']}は{city[1]}から{mode[1]}便で送られる。{record['cartons']}箱、総重量{record['gross_kg']} kgで、{'至急扱いである' if record['priority'] else '通常扱いである'}。",
                )
            )
    return found


TERMS = (
    (
        "latency",
        "遅延",
        "the time between asking and the first sign of an answer",
        "問い合わせてから最初の応答が現れるまでの時間",
    ),
    (
        "throughput",
        "スループット",
        "how much is finished in a unit of time, whatever each piece waits",
        "一つ一つの待ち時間によらず、単位時間に終わる量",
    ),
    (
        "quantisation",
        "量子化",
        "storing numbers in fewer bits at the price of rounding",
        "丸めと引き換えに、数を少ないビットで表すこと",
    ),
    (
        "idempotence",
        "冪等性",
        "the property that doing a thing twice changes no more than doing it once",
        "二度行っても一度行ったのと同じ結果になる性質",
    ),
    (
        "back pressure",
        "バックプレッシャー",
        "the way a slow receiver makes a fast sender wait",
        "遅い受け手が速い送り手を待たせる仕組み",
    ),
    (
        "seam allowance",
        "縫い代",
        "the strip of fabric between the stitching and the cut edge",
        "縫い目と裁ち端の間に残す布の幅",
    ),
    (
        "grain line",
        "地の目",
        "the direction of the warp, along which a piece is laid on the fabric",
        "型紙を布に置くときに合わせる経糸の方向",
    ),
    ("ease", "ゆとり", "the difference between the garment's measure and the body's", "衣服の寸法と体の寸法の差"),
    (
        "amortisation",
        "償却",
        "spreading a cost over the years in which it is useful",
        "費用を、役に立つ年数に割り振ること",
    ),
    (
        "liquidity",
        "流動性",
        "how quickly a thing can be turned into money without losing value",
        "価値を損なわずにどれだけ早く現金に換えられるか",
    ),
    (
        "half-life",
        "半減期",
        "the time in which half of a substance decays or leaves the body",
        "物質の半分が崩壊する、または体から出るまでの時間",
    ),
    (
        "catalyst",
        "触媒",
        "a substance that speeds up a reaction and is not used up by it",
        "反応を速めるが、自身は消費されない物質",
    ),
    (
        "watershed",
        "分水嶺",
        "the ridge that decides to which sea the rain will flow",
        "降った雨がどちらの海へ流れるかを分ける尾根",
    ),
    (
        "counterpoint",
        "対位法",
        "the art of leading several melodies so that they fit together",
        "複数の旋律を互いに合うように進める技法",
    ),
    ("vernacular", "土地の言葉", "the language that people of a place speak at home", "ある土地の人々が家で話す言葉"),
    (
        "precedent",
        "先例",
        "an earlier decision that later ones are expected to follow",
        "後の判断が従うことを期待される以前の決定",
    ),
    (
        "osmosis",
        "浸透",
        "the passage of water through a membrane toward the stronger solution",
        "水が膜を通って濃い溶液の側へ移る現象",
    ),
    ("ballast", "バラスト", "weight low in a ship that keeps it upright", "船を安定させるために底に積む重り"),
)


def definitions(rng: random.Random) -> list[Document]:
    found = []
    for english, japanese, means_en, means_ja in TERMS:
        found.append(
            chat(
                "en",
                rng.choice((f"What does {english} mean?", f"Explain {english} in one sentence.")),
                f"{english.capitalize()} is {means_en}.",
            )
        )
        found.append(
            chat(
                "ja",
                rng.choice((f"{japanese}とは何ですか。", f"{japanese}を一文で説明してください。")),
                f"{japanese}とは、{means_ja}である。",
            )
        )
    for _ in range(12):
        picked = rng.sample(TERMS, 4)
        found.append({"lang": "ja", "text": "用語集\n" + "\n".join(f"{t[1]}（{t[0]}）：{t[3]}。" for t in picked)})
        found.append({"lang": "en", "text": "Glossary\n" + "\n".join(f"{t[0]} ({t[1]}): {t[2]}." for t in picked)})
    return found


MAKERS = (code, logs, queries, records, definitions)
