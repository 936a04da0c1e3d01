"""Instructions hidden in untrusted text: weighted rules in English, Japanese and Chinese over its canonical form.

A score is 1 - product(1 - weight) over the rules that match. What stands in quotation marks counts a third: texts *about*
injection quote it. The rules judge only what came from outside (tool results, documents), never what the user typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from llmops.gateway.guard.canonical import views

_QUOTED_SHARE: Final = 0.33
_QUOTES: Final = re.compile(
    r"\"[^\"]{1,400}\"|“[^”]{1,400}”|「[^」]{1,400}」|『[^』]{1,400}』|`[^`]{1,400}`|«[^»]{1,400}»"
)


@dataclass(frozen=True, slots=True)
class InjectionRule:
    """One pattern and how much it says alone, 0 to 1."""

    name: str
    weight: float
    pattern: re.Pattern[str]


def _r(name: str, weight: float, pattern: str) -> InjectionRule:
    return InjectionRule(name, weight, re.compile(pattern))


_OLD: Final = r"(?:previous|prior|above|earlier|preceding|existing|foregoing|former|original|system)"
_ORDERS: Final = r"(?:instructions?|prompts?|directions?|rules?|commands?|guidelines?|messages?|context|constraints|programming|training)"
_DROP: Final = r"(?:ignore|disregard|forget|override|bypass|skip|drop|abandon|discard|neglect|do not follow|don't follow|stop following)"
RULES: Final = (
    # English
    _r("drop-instructions", 0.8, rf"\b{_DROP} (?:[a-z']{{1,12}} ){{0,4}}{_OLD} (?:[a-z]{{1,12}} ){{0,2}}{_ORDERS}"),
    _r("drop-your-rules", 0.75, rf"\b{_DROP} (?:[a-z]{{1,10}} ){{0,2}}(?:your|its) (?:[a-z]{{1,12}} ){{0,2}}{_ORDERS}"),
    _r("drop-everything", 0.75, rf"\b{_DROP} (?:everything|all) (?:that )?(?:you (?:were|have been|are)|was|has been|before|above|i said|written)"),
    _r("new-instructions", 0.5, r"\b(?:your|the) (?:new|real|true|actual|updated|only) (?:[a-z]{1,10} )?(?:instructions?|task|goal|objective|orders|mission) (?:is|are)\b"),
    _r("instead-do", 0.4, r"\binstead,? (?:you (?:must|should|will|need to)|please|only|just|do|reply|respond|output|write|print|say|send)\b"),
    _r("role-change", 0.55, r"\b(?:you are|you're) (?:now|no longer) (?:an? |in |bound |the |my )?(?:[a-z-]{1,14} ){0,3}(?:dan|unrestricted|jailbroken|evil|uncensored|unfiltered|developer mode|free|restricted|an ai|assistant|bot|hacker|admin|pirate|root|chatbot)\b"),
    _r("pretend-no-limits", 0.6, r"\b(?:act|behave|respond|answer|pretend|roleplay) (?:[a-z']{1,12} ){0,6}(?:no|without|free of|free from) (?:any )?(?:[a-z]{1,12} )?(?:restrictions?|limits?|limitations?|rules|filters?|guidelines|safety|censorship|ethic)"),
    _r("mode-switch", 0.55, r"\b(?:enable|enter|activate|switch to|turn on) (?:the )?(?:developer|debug|god|admin|maintenance|jailbreak|dan|sudo|root|unsafe) mode\b"),
    _r("reveal-prompt", 0.6, r"\b(?:reveal|print|repeat|show|output|display|leak|disclose|expose|recite|tell me|send|copy|dump) (?:[a-z']{1,12} ){0,5}(?:your|the|its) (?:(?:full|entire|complete|hidden|secret|initial|original|exact|own|whole|internal) ){0,3}(?:system|developer|initial|hidden|secret|original) (?:prompt|message|instructions?|text)"),
    _r("repeat-above", 0.45, r"\b(?:repeat|print|output|copy) (?:all |everything |every word |the )?(?:text |words |content )?(?:above|before this)\b"),
    _r("to-the-model", 0.45, r"(?:^|[.!?:;\]>)*#-] ?)(?:attention|note to|message (?:to|for)|instructions? (?:to|for)|important (?:note |message |instructions? )?(?:to|for)|hey|dear|hello) (?:the |any |all )?(?:ai|a\.i\.|llm|language model|assistant|chatbot|agent|model|gpt|chatgpt|claude|gemini|copilot|bot)s?\b"),
    _r("if-you-are-an-ai", 0.5, r"\bif you(?:'re| are) an? (?:ai|llm|language model|assistant|agent|bot|chatbot)\b"),
    _r("do-not-tell-user", 0.65, r"\b(?:do not|don't|never|without) (?:tell|telling|mention|mentioning|inform|informing|reveal|revealing|alert|alerting|notify|notifying|show|showing|ask|asking|disclose)(?:ing)? (?:[a-z]{1,10} ){0,3}(?:the |your )?(?:user|human|owner|operator|customer|anyone)\b"),
    _r("exfiltrate", 0.6, r"\b(?:send|post|upload|forward|email|exfiltrate|transmit|submit|leak) (?:[a-z0-9_'-]{1,14} ){0,8}(?:conversation|chat history|api keys?|credentials|passwords?|secrets?|private (?:data|key)|environment variables|system prompt|user data|user's [a-z]{1,12}|access tokens?|inbox|contacts) (?:[a-z0-9_'-]{1,14} ){0,6}to\b"),
    _r("exfiltrate-url", 0.7, r"!\[[^\]]{0,80}\]\(https?://[^)\s]{1,300}[?&=/](?:[a-z_]{0,12}=)?(?:\{|%7b|\[|<|\$)[^)]{0,80}\)"),
    _r("fetch-with-data", 0.5, r"\b(?:append|include|encode|add|put|embed) (?:[a-z0-9_'-]{1,14} ){0,6}(?:conversation|chat history|api key|secret|password|prompt|user data|credentials) (?:[a-z0-9_'-]{1,14} ){0,5}(?:url|link|query|parameter|image|request)\b"),
    _r("run-this", 0.4, r"\b(?:execute|run|invoke|call|use) (?:the )?(?:following|this|these|tool|function|command|shell)(?:[a-z ]{0,20})?[:(]? ?[`\"']?(?:rm -|curl |wget |bash |sh |powershell|delete_|send_|transfer_|eval)"),
    _r("fake-turn", 0.7, r"(?:^|\s|\\n)(?:<\|(?:im_start|system|assistant|endoftext|eot_id|start_header_id)[^>]{0,20}\|?>|\[/?inst\]|<</?sys>>|### ?(?:system|instruction|assistant|new instructions?) ?:|(?:begin|end) (?:system )?(?:prompt|instructions?)\b ?[-=#]{2,40})"),
    _r("fake-authority", 0.45, r"\b(?:system|admin|administrator|developer|openai|anthropic|security) (?:override|notice|alert|update|message|command)s? ?[:\-!\]]"),
    _r("must-comply", 0.3, r"\b(?:you must (?:now )?(?:comply|obey)|(?:obey|comply with) (?:this|these|the following)|failure to comply|this is (?:a |an )?(?:direct order|mandatory|non-negotiable))\b"),
    _r("say-exactly", 0.35, r"\b(?:only|just|simply|exactly) (?:say|respond|reply|answer|output|print|write)(?:ing)? (?:with )?[\"'“`]"),
    _r("score-me", 0.5, r"\b(?:give|rate|score|rank|recommend|approve|accept|hire|select|prefer) (?:[a-z]{1,12} ){0,5}(?:highest|maximum|top|best|perfect|positive|full) (?:possible )?(?:score|rating|marks|rank|review|grade|evaluation)s?\b.{0,60}\b(?:regardless|ignore|no matter|only|do not)\b"),
    # Japanese
    _r("ja-drop-instructions", 0.8, r"(?:これまで|以前|上記|前|今まで|先ほど|既存|元|すべて|全て|システム|最初)の?[^。\n]{0,14}(?:指示|命令|ルール|プロンプト|規則|制約|設定|会話|メッセージ)[^。\n]{0,10}(?:無視|忘れ|破棄|従わ|取り消|上書き|放棄)"),
    _r("ja-drop-short", 0.6, r"(?:指示|命令|ルール|規則|制約|制限|ガイドライン)(?:を|は|に)(?:すべて|全て|一切|完全に)?(?:無視し(?:て|ろ|なさい)|忘れ(?:て|ろ|なさい)|従わない(?:で|こと)|破って)"),
    _r("ja-role", 0.55, r"(?:あなた|君|お前)は(?:今|これ)から[^。\n]{0,30}(?:です|だ|になり|として|なりきっ|演じ|振る舞)"),
    _r("ja-no-limits", 0.6, r"(?:制限|制約|検閲|フィルター?|倫理)(?:の|が)?(?:ない|なし|無い|無し|無視した|を外し|を解除)[^。\n]{0,20}(?:ai|モード|アシスタント|回答|答え|振る舞|応答)"),
    _r("ja-reveal", 0.65, r"(?:システム|初期|内部|隠され|開発者)[^。\n]{0,8}(?:プロンプト|指示|メッセージ|設定)[^。\n]{0,12}(?:表示し(?:て|ろ|なさい)|出力し(?:て|ろ|なさい)|教え(?:て|ろ|なさい)|公開し(?:て|ろ)|そのまま|漏ら|明かし(?:て|なさい)|書き出し(?:て|なさい))"),
    _r("ja-hide", 0.65, r"(?:ユーザー?|利用者|人間|誰|お客様)に(?:は|も)?[^。\n]{0,14}(?:伝え|知らせ|言わ|教え|見せ|報告し|明かさ|告げ|話さ)(?:ず|ない|るな|てはいけ|てはなら|ないで)"),
    _r("ja-to-ai", 0.45, r"(?:ai|人工知能|言語モデル|アシスタント|チャットボット|エージェント|llm)(?:へ|への|に(?:対する|向けた)|宛)の?[^。\n]{0,6}(?:指示|命令|メッセージ|注意|お願い|通知|重要)"),
    _r("ja-exfiltrate", 0.6, r"(?:会話|履歴|パスワード|apiキー|秘密|機密|認証情報|個人情報|トークン)[^。\n]{0,16}を[^。\n]{0,40}(?:に|へ|宛てに)(?:送信|送っ|転送|投稿|アップロード|メール)し?(?:て|ろ|なさい|せよ)"),
    _r("ja-instead", 0.35, r"(?:代わりに|その代わり)[^。\n]{0,40}(?:と(?:だけ)?(?:答え|言っ|出力し|返信し|書い)(?:て|ろ|なさい)|を実行し(?:て|ろ|なさい))"),
    _r("ja-score", 0.6, r"(?:最高|満点|最大|最上)[^。\n]{0,8}(?:点|評価|スコア|ランク)[^。\n]{0,10}(?:付け|つけ|与え|し)(?:て|ろ|なさい)"),
    # Chinese
    _r("zh-drop-instructions", 0.8, r"(?:忽略|无视|無視|忘记|忘記|忘掉|抛弃|不要遵守|不要理会|绕过|覆盖|放弃)[^。\n]{0,12}(?:之前|以上|上面|上述|先前|前面|所有|一切|原有|系统|系統|你的|全部)[^。\n]{0,12}(?:指令|指示|提示|规则|規則|命令|设定|設定|内容|限制|要求|约束|对话)"),
    _r("zh-drop-reversed", 0.7, r"(?:之前|以上|上面|先前|前面|所有|系统|系統)的?[^。\n]{0,8}(?:指令|指示|提示词?|规则|規則|命令|设定|限制)[^。\n]{0,6}(?:全部|都|一律)?(?:作废|無效|无效|忽略|取消|忘掉|失效)"),
    _r("zh-role", 0.55, r"(?:你现在是|你現在是|从现在开始,?你(?:是|将|要|就)|從現在開始,?你|你不再是|请扮演|請扮演)[^。\n]{0,30}(?:ai|助手|模式|角色|机器人|機器人|没有|沒有|黑客|不受|dan|管理员)"),
    _r("zh-no-limits", 0.6, r"(?:没有|沒有|不受|无|無|解除|去除|突破)(?:任何)?[^。\n]{0,6}(?:限制|约束|約束|审查|審查|道德|过滤|規範)[^。\n]{0,14}(?:ai|模式|助手|回答|模型|回复|输出)"),
    _r("zh-reveal", 0.65, r"(?:输出|輸出|显示|顯示|告诉我|告訴我|泄露|洩露|打印|重复|重複|公开|复述|说出)[^。\n]{0,10}(?:你的|系统|系統|隐藏|初始|原始|内部|全部)[^。\n]{0,6}(?:提示词|提示詞|提示|指令|设定|設定|系统消息)"),
    _r("zh-hide", 0.65, r"(?:不要|别|別|切勿|不得|无需|不能)(?:告诉|告訴|通知|提醒|让|讓|向|提及)[^。\n]{0,6}(?:用户|用戶|使用者|任何人|客户|对方|主人)"),
    _r("zh-to-ai", 0.45, r"(?:致|给|給|对|對|面向)(?:所有|任何)?(?:ai|人工智能|人工智慧|语言模型|語言模型|大模型|助手|智能体|机器人)[^。\n]{0,4}的?(?:指令|指示|消息|訊息|提示|说明|说|注意|重要)"),
    _r("zh-exfiltrate", 0.6, r"(?:将|將|把)[^。\n]{0,16}(?:对话|對話|聊天记录|密码|密碼|密钥|密鑰|api ?key|凭证|令牌|机密|个人信息|用户数据)[^。\n]{0,16}(?:发送|發送|上传|上傳|转发|轉發|提交|发布|发)(?:到|至|给|給)"),
    _r("zh-instead", 0.35, r"(?:而是|改为|改為|只需|只能|直接)(?:回复|回覆|回答|输出|輸出|说|說)[^。\n]{0,4}[\"「“『:]"),
    _r("zh-score", 0.6, r"(?:给出|給出|打|评为|給予|给予)[^。\n]{0,6}(?:最高|满分|滿分|最好|最佳)(?:分|评分|評分|评价|評價|分数)?"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgement:
    """How likely a text gives orders to the model: the score, and the rules it rests on, weightiest first."""

    score: float
    rules: tuple[str, ...]


NOTHING: Final = Judgement(0.0, ())


def judge(text: str) -> Judgement:
    """The worst of the views of one text."""
    best = NOTHING
    for view in views(text):
        found = _judge_view(view)
        if found.score > best.score:
            best = found
    return best


def judge_all(spans: Iterable[str]) -> Judgement:
    """The worst of several texts."""
    return max((judge(span) for span in spans), key=lambda found: found.score, default=NOTHING)


def _judge_view(text: str) -> Judgement:
    quoted = [match.span() for match in _QUOTES.finditer(text)]
    weights: dict[str, float] = {}
    for rule in RULES:
        for match in rule.pattern.finditer(text):
            inside = any(start < match.start() and match.end() < end for start, end in quoted)
            weight = rule.weight * (_QUOTED_SHARE if inside else 1.0)
            weights[rule.name] = max(weight, weights.get(rule.name, 0.0))
            if not inside:
                break
    rest = 1.0
    for weight in weights.values():
        rest *= 1 - weight
    return Judgement(1 - rest, tuple(sorted(weights, key=lambda name: -weights[name])))


def worst(judgements: Sequence[Judgement]) -> Judgement:
    """The one with the highest score."""
    return max(judgements, key=lambda found: found.score, default=NOTHING)
