"""Makers of everyday documents: customer mail, cooking, arithmetic, travel, minutes, dialogues."""

from __future__ import annotations

import random

Document = dict[str, object]


def chat(lang: str, question: str, answer: str) -> Document:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"lang": lang, "messages": messages}


NAMES_EN = (
    "Amara Nwosu",
    "Jonas Keller",
    "Priya Raman",
    "Luis Ortega",
    "Hannah Berg",
    "Tomasz Zielinski",
    "Grace Liu",
    "Farid Haddad",
)
NAMES_JA = ("佐藤 由美", "高橋 健一", "中村 葵", "小林 大輔", "渡辺 千尋", "伊藤 直樹", "山口 美咲", "松本 悠")
ITEMS = (
    ("rain jacket", "レインジャケット"),
    ("linen shirt", "リネンシャツ"),
    ("wool scarf", "ウールマフラー"),
    ("canvas bag", "帆布のバッグ"),
    ("running shorts", "ランニングショーツ"),
    ("desk lamp", "卓上ランプ"),
    ("ceramic teapot", "急須"),
    ("umbrella", "傘"),
)
PROBLEMS = (
    (
        "the zip came off after two days",
        "二日でファスナーが外れました",
        "We are sending a replacement today; please keep the old one until the courier collects it.",
        "本日代わりの品をお送りします。古い品は、回収に伺うまでお手元にお置きください。",
    ),
    (
        "it is one size too small",
        "一つ小さいサイズでした",
        "The next size is in stock; the exchange is free within thirty days.",
        "一つ上のサイズに在庫がございます。三十日以内の交換は無料です。",
    ),
    (
        "the colour differs from the photograph",
        "写真と色が違います",
        "Screens show this dye too bright; if you prefer, you can return it at our cost.",
        "この染料は画面では明るく見えます。ご希望でしたら、送料当方負担で返品をお受けします。",
    ),
    (
        "the parcel has not arrived after nine days",
        "九日たっても届きません",
        "The carrier lost the scan in the northern depot; a new parcel leaves this afternoon.",
        "北の集配所で記録が途切れておりました。本日の午後に新しい荷物を発送いたします。",
    ),
    (
        "I was charged twice",
        "二重に請求されています",
        "One of the two charges was only reserved and will be released within five days.",
        "二件のうち一件は仮の請求で、五日以内に取り消されます。",
    ),
    (
        "there is no invoice in the box",
        "箱に請求書が入っていません",
        "The invoice is attached to this message as a PDF.",
        "請求書をこのメールにPDFで添付いたしました。",
    ),
)


def mail(rng: random.Random) -> list[Document]:
    found = []
    for n in range(40):
        item, problem = rng.choice(ITEMS), rng.choice(PROBLEMS)
        order = rng.randint(100200, 998800)
        if n % 2:
            name = rng.choice(NAMES_JA)
            ask = f"お客様からのメールに返信を書いてください。\n\n注文番号{order}の{item[1]}についてご連絡します。{problem[1]}。対応をお願いします。{name}"
            answer = f"{name.split()[0]}様\n\nこのたびはご迷惑をおかけし、申し訳ございません。注文番号{order}の{item[1]}につきまして、{problem[3]}ご不明な点がございましたら、このメールにそのままご返信ください。\n\nお客様相談室"
            found.append(chat("ja", ask, answer))
        else:
            name = rng.choice(NAMES_EN)
            ask = f"Draft a reply to this customer.\n\nHello, order {order}, the {item[0]}: {problem[0]}. What can you do? {name}"
            answer = f"Dear {name.split()[0]},\n\nI am sorry about the trouble with the {item[0]} from order {order}. {problem[2]} If anything is unclear, simply answer this message and it will reach me.\n\nKind regards,\nCustomer service"
            found.append(chat("en", ask, answer))
    return found


DISHES = (
    (
        "lentil soup",
        "レンズ豆のスープ",
        (
            ("red lentils", "赤レンズ豆", "200 g"),
            ("carrots", "にんじん", "2"),
            ("onion", "玉ねぎ", "1"),
            ("cumin", "クミン", "1 tsp"),
        ),
        "Soften the onion in oil, add the carrots and cumin, stir for a minute, add the lentils and a litre of water, and simmer for twenty-five minutes. Blend half of it and season with lemon.",
        "玉ねぎを油で炒め、にんじんとクミンを加えて一分混ぜる。豆と水一リットルを入れ、二十五分煮る。半分だけミキサーにかけ、レモンで味を整える。",
    ),
    (
        "rice with mushrooms",
        "きのこご飯",
        (
            ("rice", "米", "2 cups"),
            ("shimeji mushrooms", "しめじ", "150 g"),
            ("soy sauce", "しょうゆ", "2 tbsp"),
            ("fried tofu", "油揚げ", "1 sheet"),
        ),
        "Wash the rice and let it drain for half an hour. Put the mushrooms and sliced tofu on top, add soy sauce and water to the mark, and cook without stirring. Rest for ten minutes and fold from below.",
        "米を洗い、三十分ざるに上げる。しめじと刻んだ油揚げをのせ、しょうゆと水を目盛りまで加え、混ぜずに炊く。十分蒸らし、底から返すように混ぜる。",
    ),
    (
        "flatbread",
        "平焼きパン",
        (
            ("flour", "小麦粉", "300 g"),
            ("yoghurt", "ヨーグルト", "150 g"),
            ("salt", "塩", "1 tsp"),
            ("olive oil", "オリーブ油", "2 tbsp"),
        ),
        "Mix everything to a soft dough, rest it for twenty minutes under a cloth, divide into six, roll thin and bake in a dry hot pan, one minute on each side, until brown blisters appear.",
        "材料を混ぜて柔らかい生地を作り、布をかけて二十分休ませる。六つに分けて薄く伸ばし、油をひかない熱いフライパンで片面一分ずつ、焼き色の泡が出るまで焼く。",
    ),
    (
        "braised daikon",
        "大根の煮物",
        (
            ("daikon", "大根", "1/2"),
            ("dashi", "だし", "600 ml"),
            ("mirin", "みりん", "3 tbsp"),
            ("soy sauce", "しょうゆ", "2 tbsp"),
        ),
        "Cut the daikon in thick rounds, bevel the edges, and boil it in rice water until a skewer goes through. Simmer in dashi and mirin for fifteen minutes, add the soy sauce, and let it cool once in the broth.",
        "大根は厚い輪切りにして面取りし、米のとぎ汁で串が通るまで下ゆでする。だしとみりんで十五分煮てからしょうゆを加え、一度冷まして味を含ませる。",
    ),
    (
        "tomato sauce",
        "トマトソース",
        (
            ("canned tomatoes", "トマト缶", "400 g"),
            ("garlic", "にんにく", "2 cloves"),
            ("basil", "バジル", "a handful"),
            ("butter", "バター", "20 g"),
        ),
        "Warm the garlic slowly in oil, remove it before it browns, add the tomatoes and half a glass of water, and cook uncovered for thirty minutes. Stir in the butter and torn basil at the end.",
        "にんにくを油で弱火で温め、色づく前に取り出す。トマトと水をコップ半分加え、蓋をせずに三十分煮る。最後にバターとちぎったバジルを混ぜる。",
    ),
    (
        "egg custard",
        "茶碗蒸し",
        (("eggs", "卵", "3"), ("dashi", "だし", "450 ml"), ("chicken", "鶏肉", "80 g"), ("ginkgo nuts", "銀杏", "8")),
        "Beat the eggs without foam, add cool dashi, and strain. Pour over the filling, cover, and steam for two minutes on high and twelve on low, with the lid slightly open so that no holes form.",
        "卵は泡立てないように溶き、冷ましただしを加えてこす。具に注いで蓋をし、強火で二分、弱火で十二分蒸す。すが入らないように、蒸し器の蓋を少しずらす。",
    ),
)


def cooking(rng: random.Random) -> list[Document]:
    found = []
    for people in (2, 4, 6):
        for english, japanese, parts, how_en, how_ja in DISHES:
            listed_en = "; ".join(f"{amount} {name}" for name, _, amount in parts)
            listed_ja = "、".join(f"{name} {amount}" for _, name, amount in parts)
            if rng.random() < 0.5:
                opening = rng.choice(
                    (
                        "I have guests tonight.",
                        "It has been a long day.",
                        "We want something simple.",
                        "The shops are closed already.",
                    )
                )
                found.append(
                    chat(
                        "en",
                        f"{opening} How do I make {english} for {people} people?",
                        f"For four people take {listed_en}{'' if people == 4 else f'; for {people}, scale everything by {people / 4:g}'}. {how_en}",
                    )
                )
                found.append(
                    {
                        "lang": "ja",
                        "text": f"{japanese}（{people}人分）。材料の目安は四人分で{listed_ja}。{how_ja}{rng.choice(('翌日は味がなじんでさらにおいしい。', '冷めてもおいしいので弁当にも向く。', '塩は最後に控えめに入れるとよい。'))}",
                    }
                )
            else:
                found.append(
                    chat(
                        "ja",
                        f"{japanese}を{people}人分作りたいのですが、作り方を教えてください。",
                        f"四人分の材料は{listed_ja}です。{people}人分なら{people / 4:g}倍にしてください。{how_ja}",
                    )
                )
                found.append(
                    {
                        "lang": "en",
                        "text": f"{english.capitalize()}, serves {people}. Ingredients for four: {listed_en}. {how_en} {rng.choice(('Leftovers keep for two days.', 'It freezes well.', 'Serve it at once.'))}",
                    }
                )
    return found


def arithmetic(rng: random.Random) -> list[Document]:
    found = []
    for n in range(50):
        a, b, c = rng.randint(12, 96), rng.randint(3, 12), rng.randint(2, 9)
        kind = n % 5
        if kind == 0:
            speed, hours = rng.randint(40, 90), rng.choice((1.5, 2, 2.5, 3, 4.5))
            found.append(
                chat(
                    "en",
                    f"A train travels at {speed} km/h for {hours:g} hours and then {a} km more. How far does it travel?",
                    f"In {hours:g} hours it covers {speed} × {hours:g} = {speed * hours:g} km. With the remaining {a} km the distance is {speed * hours + a:g} km.",
                )
            )
        elif kind == 1:
            price, off = rng.choice((2400, 3600, 4800, 7500, 9800)), rng.choice((10, 15, 20, 25, 30))
            found.append(
                chat(
                    "ja",
                    f"定価{price}円のシャツが{off}％引きです。{b}枚買うといくらになりますか。",
                    f"一枚の値段は{price} × {(100 - off) / 100:g} ＝ {price * (100 - off) // 100}円です。{b}枚では{price * (100 - off) // 100} × {b} ＝ {price * (100 - off) // 100 * b}円になります。",
                )
            )
        elif kind == 2:
            found.append(
                chat(
                    "en",
                    f"{a} boxes hold {b} shirts each, and {c} shirts are left over. How many shirts are there, and how many lorries of {a * 2} shirts do they fill?",
                    f"There are {a} × {b} + {c} = {a * b + c} shirts. {a * b + c} / {a * 2} = {(a * b + c) // (a * 2)} full lorries, and {(a * b + c) % (a * 2)} shirts remain.",
                )
            )
        elif kind == 3:
            found.append(
                chat(
                    "ja",
                    f"長さ{a * b} cmの布から{a} cmの帯を切り取ります。切るたびに{c} mm失うとすると、何本とれますか。",
                    f"一本につき{a} cmと{c} mm、つまり{a + c / 10:.1f} cmを使います。{a * b} ÷ {a + c / 10:.1f} ＝ {a * b / (a + c / 10):.2f}なので、{int(a * b // (a + c / 10))}本とれます。",
                )
            )
        else:
            x = rng.randint(2, 15)
            found.append(
                chat(
                    "en" if rng.random() < 0.5 else "ja",
                    f"{b}x + {c} = {b * x + c}",
                    f"{b}x = {b * x + c} - {c} = {b * x}\nx = {b * x} / {b} = {x}",
                )
            )
    return found


PLACES = (
    (
        "Kanazawa",
        "金沢",
        "a garden that is lit by snow lanterns in winter",
        "冬に雪吊りが施される庭園",
        "gold leaf on everything, even on ice cream",
        "アイスクリームにまでのる金箔",
    ),
    (
        "Ljubljana",
        "リュブリャナ",
        "a river lined with willows and book stalls",
        "柳と古本の屋台が並ぶ川",
        "soup with buckwheat dumplings",
        "そば粉の団子のスープ",
    ),
    (
        "Valparaíso",
        "バルパライソ",
        "lifts that climb the painted hills",
        "色とりどりの丘を登るケーブルカー",
        "sandwiches of fried fish",
        "揚げた魚のサンドイッチ",
    ),
    (
        "Onomichi",
        "尾道",
        "stone steps between temples and cats",
        "寺と猫の間をつなぐ石段",
        "noodles in soy broth with pork fat",
        "背脂の入ったしょうゆラーメン",
    ),
    (
        "Bergen",
        "ベルゲン",
        "wooden houses that lean against each other",
        "互いに寄りかかる木造の家並み",
        "fish soup with root vegetables",
        "根菜の入った魚のスープ",
    ),
    (
        "Matsue",
        "松江",
        "a castle moat that can be toured in low boats",
        "屋根を下げる小舟で巡る城の堀",
        "small clams in clear soup",
        "しじみのすまし汁",
    ),
    (
        "Cusco",
        "クスコ",
        "walls whose stones fit without mortar",
        "漆喰なしで組まれた石の壁",
        "maize of a dozen colours",
        "十数色のとうもろこし",
    ),
    (
        "Tartu",
        "タルトゥ",
        "a bridge shaped like an arch of books",
        "本を積んだような弧を描く橋",
        "black bread with sprats",
        "小魚をのせた黒パン",
    ),
)


def travel(rng: random.Random) -> list[Document]:
    found = []
    for english, japanese, sight_en, sight_ja, food_en, food_ja in PLACES:
        days, cost = rng.randint(2, 5), rng.randint(30, 120) * 10
        found.append(
            {
                "lang": "en",
                "text": f"{english} in {days} days. What stays in the memory is {sight_en}. Arrive in the afternoon, leave the bags at the inn and walk without a map until it gets dark; the town is small enough to be lost in safely. In the evening order {food_en}. Allow about {cost} euros for two, not counting the train, and keep the last morning free, because that is when you will find what you came for.",
            }
        )
        found.append(
            {
                "lang": "ja",
                "text": f"{japanese}で過ごす{days}日間。いちばん心に残るのは、{sight_ja}である。午後に着いたら宿に荷物を置き、暗くなるまで地図を持たずに歩くとよい。安心して迷える大きさの町である。夜は{food_ja}を頼む。費用は列車を除いて二人で{cost * 160}円ほど。最後の朝は予定を入れずにおきたい。探していたものは、たいていそのときに見つかる。",
            }
        )
    return found


TOPICS = (
    ("the move to the new warehouse", "新しい倉庫への移転", "the racks arrive on the {d}th", "棚は{d}日に届く"),
    ("the autumn catalogue", "秋のカタログ", "the photographs are due on the {d}th", "写真の締め切りは{d}日とする"),
    (
        "the noise in the open office",
        "事務所の騒音",
        "two booths are rented for a trial until the {d}th",
        "{d}日まで試しに防音室を二つ借りる",
    ),
    (
        "delays at the port",
        "港での遅れ",
        "urgent goods go by air until the {d}th",
        "急ぎの品は{d}日まで航空便に切り替える",
    ),
    (
        "the training of new inspectors",
        "新しい検査員の研修",
        "the first course starts on the {d}th",
        "最初の研修は{d}日に始める",
    ),
    (
        "the budget for software",
        "ソフトウェアの予算",
        "each team lists its licences by the {d}th",
        "各班は{d}日までに使用中のライセンスを報告する",
    ),
)


def minutes(rng: random.Random) -> list[Document]:
    found = []
    for n in range(24):
        topics = rng.sample(TOPICS, 3)
        days = [rng.randint(4, 27) for _ in topics]
        if n % 2:
            people = rng.sample(NAMES_JA, 3)
            items = "\n".join(
                f"{k}. {t[1]}：{t[3].format(d=d)}（担当：{p.split()[0]}）"
                for k, (t, d, p) in enumerate(zip(topics, days, people, strict=True), 1)
            )
            found.append(
                {
                    "lang": "ja",
                    "text": f"週次会議の記録\n出席：{'、'.join(p.split()[0] for p in people)}\n{items}\n次回は{rng.randint(1, 12)}月{rng.randint(1, 28)}日の午前十時から行う。",
                }
            )
        else:
            people = rng.sample(NAMES_EN, 3)
            items = "\n".join(
                f"{k}. {t[0].capitalize()}: {t[2].format(d=d)} ({p.split()[0]})."
                for k, (t, d, p) in enumerate(zip(topics, days, people, strict=True), 1)
            )
            found.append(
                {
                    "lang": "en",
                    "text": f"Weekly meeting\nPresent: {', '.join(p.split()[0] for p in people)}\n{items}\nNext meeting: the {rng.randint(4, 27)}th at ten.",
                }
            )
    return found


SCENES = (
    (
        "at the tailor's",
        "仕立屋で",
        ("Could you take in the waist?", "ウエストを詰められますか。"),
        (
            "By three centimetres at most; there is not more seam to work with.",
            "三センチまでです。縫い代がそれしかありません。",
        ),
        ("And the sleeves?", "袖はどうでしょう。"),
        (
            "Those we can shorten from the shoulder, so that the buttons stay.",
            "肩から詰めれば、ボタンの位置を変えずに済みます。",
        ),
    ),
    (
        "at the lost property office",
        "忘れ物取扱所で",
        ("I left a grey umbrella on the 7:40.", "七時四十分の電車に灰色の傘を忘れました。"),
        (
            "We have thirty-one grey umbrellas. Was there anything special about it?",
            "灰色の傘は三十一本あります。何か特徴はありますか。",
        ),
        ("The handle has a bite mark from a dog.", "柄に犬のかみ跡があります。"),
        ("Then it is this one; sign here, please.", "では、こちらですね。ここに署名をお願いします。"),
    ),
    (
        "at the clinic",
        "診療所で",
        ("Since when have you had the cough?", "咳はいつからですか。"),
        ("For about two weeks, mostly at night.", "二週間ほど前から、主に夜です。"),
        ("Do you have a fever or pain when you breathe in?", "熱や、息を吸うときの痛みはありますか。"),
        ("No fever, but climbing stairs makes me short of breath.", "熱はありませんが、階段を上ると息が切れます。"),
    ),
    (
        "on the telephone with the bank",
        "銀行との電話で",
        ("A payment that I do not know appears on my card.", "カードに覚えのない支払いがあります。"),
        (
            "I am blocking the card now. Did you receive a message asking for a code?",
            "ただ今カードを止めます。番号を尋ねるメッセージが届きませんでしたか。",
        ),
        ("Yes, yesterday, but I answered nothing.", "昨日届きましたが、答えていません。"),
        ("That was right. A new card reaches you in four days.", "それで結構です。新しいカードは四日で届きます。"),
    ),
    (
        "in the workshop",
        "作業場で",
        ("The machine skips every tenth stitch.", "十針に一度、目が飛びます。"),
        ("When did you last change the needle?", "針を最後に替えたのはいつですか。"),
        ("Before the canvas order, on Monday.", "月曜、帆布の注文の前です。"),
        (
            "Then it is blunt. Canvas eats a needle in a day.",
            "では先が丸くなっていますね。帆布は一日で針を駄目にします。",
        ),
    ),
)


def dialogues(rng: random.Random) -> list[Document]:
    found = []
    for english, japanese, *lines in SCENES:
        found.append(
            {
                "lang": "en",
                "text": f"A conversation {english}.\n"
                + "\n".join(f"{'AB'[k % 2]}: {line[0]}" for k, line in enumerate(lines)),
            }
        )
        found.append(
            {
                "lang": "ja",
                "text": f"{japanese}の会話。\n"
                + "\n".join(f"{'客店'[k % 2]}「{line[1]}」" for k, line in enumerate(lines)),
            }
        )
        for line in lines:
            found.append(chat("ja", f"日本語に訳してください：{line[0]}", line[1]))
            found.append(chat("en", f"Translate into English: {line[1]}", line[0]))
    rng.shuffle(found)
    return found


MAKERS = (mail, cooking, arithmetic, travel, minutes, dialogues)
