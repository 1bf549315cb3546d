"""The language of a text: the one most of it is in, or none rather than a wrong one."""

import threading

import pytest

from app.services.detection import SAMPLE_CHARACTERS, LanguageDetector

DETECTOR = LanguageDetector()
TEXTS = {
    "en": "The company expects that its operating costs will rise during the next fiscal year.",
    "de": "Die Gesellschaft erwartet, dass ihre Betriebskosten im nächsten Geschäftsjahr steigen.",
    "fr": "La société prévoit une hausse de ses coûts d'exploitation au cours du prochain exercice.",
    "es": "La compañía espera que sus costes de explotación aumenten en el próximo ejercicio.",
    "pt": "A empresa espera que os seus custos operacionais aumentem no próximo exercício.",
    "ru": "Компания ожидает, что её операционные расходы вырастут в следующем году.",
    "ar": "تتوقع الشركة أن ترتفع تكاليف التشغيل خلال السنة المالية القادمة.",
    "zh": "公司预计下一财政年度的运营成本将会上升。",
    "ja": "当社は、来年度の営業費用が増加すると予想しています。",
    "ko": "회사는 다음 회계 연도에 운영 비용이 증가할 것으로 예상합니다.",
    "th": "บริษัทคาดว่าต้นทุนการดำเนินงานจะเพิ่มขึ้นในปีบัญชีหน้า",
}
ENGLISH = (
    "To the best of our knowledge, none of the agreements that have been made with any of the parties is "
    "affected by changes of the law which are due this year, and the board will report on those that follow."
)


@pytest.mark.parametrize("language", TEXTS)
def test_a_sentence_is_enough(language: str) -> None:
    assert DETECTOR.detect([TEXTS[language]]) == language


def test_the_language_of_most_of_it_counts() -> None:
    assert DETECTOR.detect([TEXTS["en"], *[TEXTS["de"]] * 5]) == "de"


def test_plain_english_needs_no_model() -> None:
    detector = LanguageDetector()
    english = f"{TEXTS['en']} {ENGLISH}"
    assert detector.detect([english]) == "en"
    assert detector._identifier is None
    assert detector.detect([english, *[TEXTS["de"]] * 15]) == "de"
    assert detector._identifier is not None


@pytest.mark.parametrize(
    "text",
    ["", "12,345 6,789 (3.2)\n2018 2017 2016", "chunk 0\nchunk 1", "Total 4 711", "\ud800\x00", "xkcd qwrt"],
)
def test_what_has_no_language_gets_none(text: str) -> None:
    assert DETECTOR.detect([text]) is None


def test_a_long_text_is_judged_by_its_beginning() -> None:
    assert DETECTOR.detect([TEXTS["fr"] * (SAMPLE_CHARACTERS // 80), TEXTS["en"] * 1000]) == "fr"


def test_threads_that_come_first_together_load_one_model() -> None:
    detector, found = LanguageDetector(), list[str | None]()
    threads = [
        threading.Thread(target=lambda: found.append(detector.detect([TEXTS["es"]]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["es"] * 4
