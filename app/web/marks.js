// Which words of a text are forms of words that were asked for. The service compares stems and names the words
// as they were asked; here two words are forms of one when they begin alike and differ in what may be endings.

const ENDINGS = new Set(["", "s", "es", "e", "d", "ed", "ing", "ings", "y", "ies", "ied", "n", "en", "em", "er", "ers", "r", "st", "t", "te", "a", "as", "os", "i", "is"]);
const LONGEST_ENDING = 4;
const SURE = 5; // letters in common after which any short ending will do
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;
const WORD = /[\p{L}\p{N}\p{M}]+/gu;

const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

function areForms(one, other) {
  if (one === other) return true;
  let common = 0;
  while (common < one.length && one[common] === other[common]) common += 1;
  const ends = [one.slice(common), other.slice(common)];
  if (common < 3 || /\d/.test(one + other)) return false;
  if (common >= SURE) return ends.every((end) => end.length <= LONGEST_ENDING);
  return ends.every((end) => ENDINGS.has(end) || (end[0] === one[common - 1] && ENDINGS.has(end.slice(1)))); // run, running
}

// [from, to] of each, in order, none of them touching.
export function marksIn(text, words) {
  const spaced = words.filter((word) => !UNSPACED.test(word)).map(folded);
  const marks = [];
  for (const { 0: word, index } of text.matchAll(WORD)) {
    const form = folded(word);
    if (spaced.some((one) => areForms(one, form))) marks.push([index, index + word.length]);
  }
  for (const word of words.filter((one) => UNSPACED.test(one))) {
    for (let from = text.indexOf(word); from >= 0; from = text.indexOf(word, from + 1)) marks.push([from, from + word.length]);
  }
  return merged(marks.sort(([one], [other]) => one - other));
}

function merged(marks) {
  const apart = [];
  for (const [from, to] of marks) {
    const last = apart.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else apart.push([from, to]);
  }
  return apart;
}
