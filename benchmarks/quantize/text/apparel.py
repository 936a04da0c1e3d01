"""Makers of apparel documents: technical specifications and tasks on them, size charts, care, inspection."""

from __future__ import annotations

import json
import random

Document = dict[str, object]

# name en, name ja, list of (measure en, measure ja, base cm, grade cm)
GARMENTS = (
    (
        "crew-neck T-shirt",
        "クルーネックTシャツ",
        (("chest width", "身幅", 52.0, 2.0), ("body length", "着丈", 69.0, 1.5), ("sleeve length", "袖丈", 20.5, 0.5)),
    ),
    (
        "button-down shirt",
        "ボタンダウンシャツ",
        (("chest width", "身幅", 55.0, 2.5), ("sleeve length", "裄丈", 84.0, 1.5), ("collar", "衿回り", 39.0, 1.0)),
    ),
    (
        "chino trousers",
        "チノパンツ",
        (("waist", "ウエスト", 78.0, 4.0), ("inseam", "股下", 72.0, 1.0), ("hem width", "裾幅", 18.0, 0.5)),
    ),
    (
        "pleated skirt",
        "プリーツスカート",
        (("waist", "ウエスト", 66.0, 3.0), ("skirt length", "スカート丈", 68.0, 1.0), ("hip", "ヒップ", 92.0, 4.0)),
    ),
    (
        "quilted vest",
        "キルティングベスト",
        (("chest width", "身幅", 56.0, 2.0), ("body length", "着丈", 62.0, 1.5), ("shoulder", "肩幅", 41.0, 1.2)),
    ),
    (
        "hooded sweatshirt",
        "プルオーバーパーカー",
        (("chest width", "身幅", 58.0, 2.5), ("body length", "着丈", 67.0, 2.0), ("cuff width", "袖口幅", 8.5, 0.3)),
    ),
    (
        "wool coat",
        "ウールコート",
        (("chest width", "身幅", 57.0, 2.0), ("body length", "着丈", 102.0, 2.0), ("shoulder", "肩幅", 44.5, 1.2)),
    ),
    (
        "denim jacket",
        "デニムジャケット",
        (("chest width", "身幅", 54.0, 2.0), ("sleeve length", "袖丈", 61.0, 1.0), ("hem width", "裾幅", 48.0, 2.0)),
    ),
    (
        "jersey dress",
        "カットソーワンピース",
        (("chest width", "身幅", 45.0, 2.0), ("dress length", "総丈", 112.0, 2.0), ("armhole", "袖ぐり", 21.0, 0.7)),
    ),
    (
        "school blazer",
        "スクールブレザー",
        (("chest width", "身幅", 50.0, 2.0), ("sleeve length", "袖丈", 59.0, 1.5), ("back length", "後丈", 66.0, 1.5)),
    ),
    (
        "track pants",
        "トラックパンツ",
        (
            ("waist relaxed", "ウエスト（平置き）", 34.0, 2.0),
            ("rise", "股上", 29.0, 0.8),
            ("inseam", "股下", 74.0, 1.0),
        ),
    ),
    (
        "apron",
        "胸当てエプロン",
        (
            ("bib width", "胸当て幅", 28.0, 1.0),
            ("total length", "総丈", 88.0, 2.0),
            ("strap length", "紐の長さ", 95.0, 2.0),
        ),
    ),
)
FABRICS = (
    ("100% cotton poplin, 120 g/m²", "綿100％ポプリン、120 g/m²", {"cotton": 100}),
    ("100% cotton single jersey, 180 g/m²", "綿100％天竺、180 g/m²", {"cotton": 100}),
    (
        "cotton 98%, elastane 2% twill, 260 g/m²",
        "綿98％・ポリウレタン2％ツイル、260 g/m²",
        {"cotton": 98, "elastane": 2},
    ),
    (
        "polyester 65%, cotton 35% broadcloth, 110 g/m²",
        "ポリエステル65％・綿35％ブロード、110 g/m²",
        {"polyester": 65, "cotton": 35},
    ),
    (
        "wool 90%, polyamide 10% melton, 480 g/m²",
        "毛90％・ナイロン10％メルトン、480 g/m²",
        {"wool": 90, "polyamide": 10},
    ),
    ("recycled polyester taffeta, 62 g/m²", "再生ポリエステルタフタ、62 g/m²", {"polyester": 100}),
    ("linen 55%, cotton 45% plain weave, 165 g/m²", "麻55％・綿45％平織、165 g/m²", {"linen": 55, "cotton": 45}),
    ("12 oz indigo denim, cotton 100%", "12オンスインディゴデニム、綿100％", {"cotton": 100}),
    (
        "viscose 70%, polyester 30% georgette, 135 g/m²",
        "レーヨン70％・ポリエステル30％ジョーゼット、135 g/m²",
        {"viscose": 70, "polyester": 30},
    ),
    (
        "brushed back fleece, cotton 80%, polyester 20%, 320 g/m²",
        "裏起毛スウェット、綿80％・ポリエステル20％、320 g/m²",
        {"cotton": 80, "polyester": 20},
    ),
)
COLOURS = (
    ("off white", "オフホワイト"),
    ("navy", "紺"),
    ("charcoal", "チャコール"),
    ("olive", "オリーブ"),
    ("brick red", "れんが色"),
    ("sky blue", "空色"),
    ("ecru", "生成り"),
    ("forest green", "深緑"),
    ("black", "黒"),
    ("mustard", "からし色"),
)
SEAMS = (
    ("side seams 4-thread overlock, seam allowance 1.0 cm", "脇は四本糸ロック、縫い代1.0 cm", "overlock", 1.0),
    ("side seams flat-felled, seam allowance 1.5 cm", "脇は巻き縫い、縫い代1.5 cm", "flat-felled", 1.5),
    ("side seams lockstitch, pressed open, seam allowance 1.5 cm", "脇は本縫い割り、縫い代1.5 cm", "lockstitch", 1.5),
    ("side seams French seam, seam allowance 1.2 cm", "脇は袋縫い、縫い代1.2 cm", "French seam", 1.2),
    (
        "side seams lockstitch with bound edges, seam allowance 1.3 cm",
        "脇は本縫いパイピング始末、縫い代1.3 cm",
        "bound lockstitch",
        1.3,
    ),
)
HEMS = (
    ("hem twin-needle coverstitch, 2.0 cm", "裾は二本針カバーステッチ、2.0 cm"),
    ("hem double-folded 0.7 cm, edge stitched", "裾は三つ折り0.7 cm、端ミシン"),
    ("hem folded 3.0 cm, blind stitched", "裾は3.0 cm折り上げ、すくい縫い"),
    ("hem with rib of 6.0 cm", "裾は6.0 cm幅のリブ付け"),
    ("raw hem with a safety stitch 1.0 cm from the edge", "裾は切りっぱなし、端から1.0 cmに止めミシン"),
)
TRIMS = (
    ("four-hole polyester buttons, 11.5 mm, 7 pieces", "ポリエステル四つ穴ボタン11.5 mm、7個"),
    ("metal zip no. 5, antique brass, closed end", "金属ファスナー5号、アンティークゴールド、止め"),
    ("elastic 30 mm with a flat drawcord", "30 mm幅ゴム、平紐通し"),
    ("woven main label at the back neck, centred", "後衿ぐり中央に織ネーム"),
    ("snap buttons 12 mm, nickel free, 5 pairs", "スナップボタン12 mm、ニッケル不使用、5組"),
    ("care label in the left side seam, 10 cm above the hem", "洗濯表示は左脇、裾から10 cm上"),
)
CARE = (
    (
        "machine wash at 30 °C, gentle; do not bleach; dry flat; iron at low heat",
        "30度以下の弱い洗濯、漂白不可、平干し、低温アイロン",
    ),
    ("machine wash at 40 °C; do not tumble dry; iron at medium heat", "40度以下の洗濯、タンブル乾燥不可、中温アイロン"),
    ("dry clean only; iron with a cloth; do not wring", "ドライクリーニングのみ、当て布アイロン、絞り不可"),
    ("hand wash; dry in the shade; do not iron the print", "手洗い、日陰のつり干し、プリント部アイロン不可"),
)
DEFECTS = (
    (
        "skipped stitches at the left armhole",
        "左袖ぐりの目飛び",
        "re-thread and check the needle of station 4",
        "四番ミシンの針と糸掛けを点検する",
    ),
    (
        "shade difference between body and sleeve",
        "身頃と袖の色差",
        "cut each bundle from one roll and number the plies",
        "一反ごとに裁断し、各枚に番号を付ける",
    ),
    (
        "oil stain on the back panel",
        "後ろ身頃の油染み",
        "wipe the machine before the first bundle of each shift",
        "各シフトの最初に機械を拭き取る",
    ),
    (
        "button pulled off at 60 N instead of 90 N",
        "ボタン引張強度90 Nに対し60 N",
        "change to the lock-stitch button machine, 16 stitches",
        "ロック式ボタン付け機に変更し16針とする",
    ),
    (
        "body length 2.5 cm short after washing",
        "洗濯後の着丈が2.5 cm短い",
        "relax the fabric for 24 hours before spreading",
        "延反前に24時間放反する",
    ),
    (
        "waves in the zip of the front opening",
        "前ファスナーの波打ち",
        "reduce the presser foot pressure and pre-shrink the tape",
        "押さえ圧を下げ、テープを先に縮絨する",
    ),
    (
        "needle holes along the hem",
        "裾に沿った針穴",
        "change to a ball point needle, size 9",
        "ボールポイント針9番に替える",
    ),
    (
        "print cracks when stretched",
        "伸ばすとプリントが割れる",
        "raise the curing temperature to 160 °C for 3 minutes",
        "硬化条件を160度3分に上げる",
    ),
)


def style(rng: random.Random) -> dict[str, object]:
    """The facts of one invented style."""
    english, japanese, measures = rng.choice(GARMENTS)
    return {
        "number": f"{rng.choice('ABKMSTW')}{rng.randint(1000, 9899)}",
        "en": english,
        "ja": japanese,
        "measures": measures,
        "shift": rng.choice((-2.0, -1.0, 0.0, 0.5, 1.0, 3.0)),
        "fabric": rng.choice(FABRICS),
        "colours": rng.sample(COLOURS, 2),
        "seam": rng.choice(SEAMS),
        "hem": rng.choice(HEMS),
        "trims": rng.sample(TRIMS, 2),
        "care": rng.choice(CARE),
        "stitches": rng.randint(10, 16),
        "tolerance": rng.choice((0.5, 1.0, 1.5)),
        "season": f"{rng.choice(('SS', 'AW'))}{rng.randint(25, 28)}",
    }


def spec_text(s: dict, lang: str, rng: random.Random) -> str:
    """A specification sheet as prose or as lines."""
    i = 0 if lang == "en" else 1
    measures = [(m[i], m[2] + s["shift"]) for m in s["measures"]]
    if lang == "en":
        size = ", ".join(f"{name} {value:.1f} cm" for name, value in measures)
        parts = [
            f"Style {s['number']} ({s['season']}): {s['en']} in {s['colours'][0][0]} and {s['colours'][1][0]}.",
            f"Shell fabric: {s['fabric'][0]}.",
            f"Sewing: {s['seam'][0]}; {s['hem'][0]}; {s['stitches']} stitches per 3 cm.",
            f"Trims: {s['trims'][0][0]}; {s['trims'][1][0]}.",
            f"Finished measurements, size M: {size}; tolerance ±{s['tolerance']:g} cm.",
            f"Care: {s['care'][0]}.",
        ]
        return (" " if rng.random() < 0.5 else "\n").join(parts)
    size = "、".join(f"{name} {value:.1f} cm" for name, value in measures)
    parts = [
        f"品番{s['number']}（{s['season']}）{s['ja']}。色は{s['colours'][0][1]}と{s['colours'][1][1]}の二色展開。",
        f"表地：{s['fabric'][1]}。",
        f"縫製：{s['seam'][1]}。{s['hem'][1]}。運針は3 cmあたり{s['stitches']}針。",
        f"付属：{s['trims'][0][1]}。{s['trims'][1][1]}。",
        f"仕上がり寸法（Mサイズ）：{size}。許容差は±{s['tolerance']:g} cm。",
        f"取扱い：{s['care'][1]}。",
    ]
    return ("" if rng.random() < 0.5 else "\n").join(parts)


def chat(lang: str, question: str, answer: str) -> Document:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"lang": lang, "messages": messages}


def extraction(rng: random.Random) -> list[Document]:
    """From a specification to JSON."""
    found = []
    for n in range(44):
        lang = "ja" if n % 2 else "en"
        i = 0 if lang == "en" else 1
        s = style(rng)
        answer = {
            "style": s["number"],
            "season": s["season"],
            "garment": s[lang],
            "colours": [c[i] for c in s["colours"]],
            "composition": s["fabric"][2],
            "side_seam": s["seam"][2],
            "seam_allowance_cm": s["seam"][3],
            "stitches_per_3cm": s["stitches"],
            "measurements_cm": {m[i]: m[2] + s["shift"] for m in s["measures"]},
            "tolerance_cm": s["tolerance"],
        }
        ask = (
            rng.choice(
                ("Extract the specification below as JSON.", "Turn this tech pack summary into JSON; use centimetres.")
            )
            if lang == "en"
            else rng.choice(
                ("次の仕様をJSONに整理してください。", "下の縫製仕様書から項目を抜き出し、JSONで答えてください。")
            )
        )
        found.append(
            chat(
                lang,
                f"{ask}\n\n{spec_text(s, lang, rng)}",
                json.dumps(answer, ensure_ascii=False, indent=rng.choice((None, 2))),
            )
        )
    return found


def translation(rng: random.Random) -> list[Document]:
    """A specification from one language into the other."""
    found = []
    for n in range(30):
        s = style(rng)
        state = rng.getstate()
        english = spec_text(s, "en", rng)
        rng.setstate(state)
        japanese = spec_text(s, "ja", rng)
        if n % 2:
            found.append(chat("ja", f"次の仕様書を日本語に訳してください。\n\n{english}", japanese))
        else:
            found.append(
                chat("en", f"Translate this specification into English for the factory.\n\n{japanese}", english)
            )
    return found


def grading(rng: random.Random) -> list[Document]:
    """Size charts computed from a base size and a grade."""
    found = []
    for n in range(26):
        lang = "ja" if n % 2 else "en"
        i = 0 if lang == "en" else 1
        s = style(rng)
        rows = [(m[i], m[2] + s["shift"], m[3]) for m in s["measures"]]
        steps = (("XS", -2), ("S", -1), ("M", 0), ("L", 1), ("XL", 2))
        head = "| " + " | ".join(["cm", *(name for name, _ in steps)]) + " |\n|" + "---|" * 6
        body = "\n".join(
            "| " + " | ".join([name, *(f"{base + k * grade:.1f}" for _, k in steps)]) + " |"
            for name, base, grade in rows
        )
        if lang == "en":
            given = "; ".join(f"{name} {base:.1f} cm, grade {grade:g} cm" for name, base, grade in rows)
            ask = f"Style {s['number']}, {s['en']}. Size M: {given}. Make the size chart from XS to XL."
        else:
            given = "、".join(f"{name}{base:.1f} cm（ピッチ{grade:g} cm）" for name, base, grade in rows)
            ask = f"品番{s['number']}「{s['ja']}」のMサイズは{given}です。XSからXLまでの寸法表を作ってください。"
        found.append(chat(lang, ask, f"{head}\n{body}"))
    return found


def inspection(rng: random.Random) -> list[Document]:
    """Inspection reports with a computed verdict."""
    found = []
    for n in range(28):
        lang = "ja" if n % 2 else "en"
        i = 0 if lang == "en" else 1
        s = style(rng)
        lot, sample = rng.choice(((1200, 80), (3200, 125), (500, 50), (9000, 200)))
        limit = {50: 3, 80: 5, 125: 7, 200: 10}[sample]
        picked = rng.sample(DEFECTS, 3)
        counts = [rng.randint(1, 4) for _ in picked]
        total = sum(counts)
        passed = total <= limit
        if lang == "en":
            listed = " ".join(f"{count} × {d[0]}; action: {d[2]}." for d, count in zip(picked, counts, strict=True))
            text = (
                f"Final inspection of style {s['number']}, {s['en']}, lot of {lot} pieces. {sample} pieces were drawn; up to "
                f"{limit} major defects are accepted. Found: {listed} Total {total}: the lot is "
                f"{'accepted' if passed else 'rejected and goes back for sorting'}. "
                f"Measured {s['measures'][0][0]} was within ±{s['tolerance']:g} cm on {sample - rng.randint(0, 4)} of {sample} pieces."
            )
        else:
            listed = "".join(f"{d[1]}が{count}件（処置：{d[3]}）。" for d, count in zip(picked, counts, strict=True))
            text = (
                f"最終検品報告。品番{s['number']}{s['ja']}、ロット{lot}枚から{sample}枚を抜き取った。重欠点の許容数は{limit}件である。"
                f"結果は次のとおり。{listed}合計{total}件のため、このロットは{'合格' if passed else '不合格とし、全数選別のうえ再検査'}とする。"
                f"{s['measures'][0][i]}の許容差±{s['tolerance']:g} cmを外れたものは{rng.randint(0, 4)}枚であった。"
            )
        found.append({"lang": lang, "text": text})
    return found


def consumption(rng: random.Random) -> list[Document]:
    """Fabric consumption, worked step by step."""
    found = []
    for n in range(20):
        s = style(rng)
        pieces = rng.choice((240, 600, 1200, 1800, 3000))
        marker, layers = rng.choice((6.4, 7.2, 8.15, 9.6)), rng.choice((4, 5, 6, 8))
        waste = rng.choice((3, 4, 5))
        each = marker / layers
        total = each * pieces * (1 + waste / 100)
        if n % 2:
            ask = f"{s['ja']}を{pieces}枚作ります。マーカー長{marker} mで{layers}枚取り、ロス率は{waste}％です。必要な生地は何メートルですか。"
            answer = f"一枚あたりの用尺は{marker} ÷ {layers} ＝ {each:.3f} m。{pieces}枚では{each * pieces:.1f} m。ロス{waste}％を加えると{total:.1f} mとなり、発注は{-(-total // 10) * 10:.0f} mが目安です。"
            found.append(chat("ja", ask, answer))
        else:
            ask = f"We cut {pieces} pieces of a {s['en']}. The marker is {marker} m long for {layers} pieces, waste is {waste}%. How much fabric do we order?"
            answer = f"One piece takes {marker} / {layers} = {each:.3f} m. {pieces} pieces take {each * pieces:.1f} m. With {waste}% waste that is {total:.1f} m, so order {-(-total // 10) * 10:.0f} m."
            found.append(chat("en", ask, answer))
    return found


FIBRES = {
    "cotton": (
        "綿",
        "comes from the seed hair of a shrub",
        "植物の種の毛からとれる",
        "absorbs sweat and can be boiled",
        "汗を吸い、煮沸にも耐える",
        "creases and dries slowly",
        "しわになりやすく、乾きが遅い",
    ),
    "wool": (
        "毛",
        "is the crimped hair of sheep",
        "羊の縮れた毛である",
        "keeps warm even when damp",
        "湿っていても暖かい",
        "felts when rubbed in hot water",
        "熱い湯でもむと縮む",
    ),
    "silk": (
        "絹",
        "is drawn from the cocoon of a moth",
        "蚕の繭から引き出される",
        "is fine, strong and lustrous",
        "細く強く、光沢がある",
        "yellows in sunlight and stains with water",
        "日光で黄ばみ、水じみができやすい",
    ),
    "linen": (
        "麻",
        "is made from the stem of flax",
        "亜麻の茎から作られる",
        "feels cool and dries fast",
        "涼しく、乾きが早い",
        "creases sharply and is stiff when new",
        "折りじわが強く、新しいうちは硬い",
    ),
    "polyester": (
        "ポリエステル",
        "is spun from a melted polymer",
        "溶かした樹脂を紡いで作る",
        "keeps its shape and resists creases",
        "形が崩れにくく、しわになりにくい",
        "holds little moisture and attracts oil",
        "湿気を吸わず、油汚れが付きやすい",
    ),
    "nylon": (
        "ナイロン",
        "was the first fully synthetic fibre",
        "最初の完全な合成繊維である",
        "is very strong for its weight",
        "軽いわりに非常に強い",
        "loses strength in sunlight",
        "日光で弱くなる",
    ),
    "viscose": (
        "レーヨン",
        "is regenerated from wood pulp",
        "木材パルプから再生される",
        "drapes softly and takes dye well",
        "柔らかく垂れ、よく染まる",
        "is weak when wet",
        "濡れると弱い",
    ),
    "elastane": (
        "ポリウレタン",
        "is used in small shares within other yarns",
        "少量をほかの糸に混ぜて使う",
        "stretches several times its length",
        "数倍の長さに伸びる",
        "is damaged by chlorine and heat",
        "塩素と熱に弱い",
    ),
}


def fibres(rng: random.Random) -> list[Document]:
    """Comparisons of two fibres."""
    names = sorted(FIBRES)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    found = []
    for n, (a, b) in enumerate(rng.sample(pairs, 26)):
        x, y = FIBRES[a], FIBRES[b]
        if n % 2:
            text = f"{x[0]}と{y[0]}はどう違いますか。\n{x[0]}は{x[2]}。{x[4]}が、{x[6]}という欠点がある。一方、{y[0]}は{y[2]}。{y[4]}反面、{y[6]}。両方を混ぜると、互いの短所を補うことができる。"
            found.append({"lang": "ja", "text": text})
        else:
            text = f"How do {a} and {b} differ? {a.capitalize()} {x[1]}; it {x[3]}, but it {x[5]}. {b.capitalize()}, on the other hand, {y[1]}: it {y[3]}, while it {y[5]}. Blended, each makes up for some weakness of the other."
            found.append({"lang": "en", "text": text})
    return found


MAKERS = (extraction, translation, grading, inspection, consumption, fibres)
