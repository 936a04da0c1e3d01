"""Short common words from which synthetic prompts are made."""

from __future__ import annotations

from typing import Final

ENGLISH: Final = """
the of and to in is that it was for on are with as be at one have this from by hot word but what some we can
out other were all there when up use your how said an each she which do their time if will way about many then
them write would like so these her long make thing see him two has look more day could go come did number
sound no most people my over know water than call first who may down side been now find any new work part take
get place made live where after back little only round man year came show every good me give our under name
very through just form sentence great think say help low line differ turn cause much mean before move right
boy old too same tell does set three want air well also play small end put home read hand port large spell add
even land here must big high such follow act why ask men change went light kind off need house picture try us
again animal point mother world near build self earth father head stand own page should country found answer
school
"""

JAPANESE: Final = """
今日 明日 昨日 東京 大阪 会社 学校 電車 時間 天気 人間 世界 問題 方法 結果 研究 開発 技術 情報
社会 生活 経済 政府 市場 計画 会議 報告 資料 製品 顧客 品質 工場 設計 試験 測定 機械 学習 言語
文章 質問 回答 説明 意味 理由 目的 必要 重要 可能 簡単 困難 新しい 古い 大きい 小さい 高い 低い
早い 遅い 良い 悪い する なる ある いる 行く 来る 見る 聞く 書く 読む 話す 考える 作る 使う
調べる 始める 終わる 続ける 変える 増える 減る そして しかし また 例えば つまり について として
によって ために ところ もの こと よう それ これ ここ そこ どこ いつ だれ なぜ
"""
