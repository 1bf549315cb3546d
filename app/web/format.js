// Numbers and times as the reader writes them.

const number = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

export const count = (value) => number.format(value);
export const decimal = (value) => short.format(value);
export const counted = (value, one, many = `${one}s`) => `${number.format(value)} ${value === 1 ? one : many}`;
export const time = (text) => clock.format(new Date(text));
export const date = (text) => day.format(new Date(text));

export function bytes(value) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const step = value < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(value) / 3));
  return new Intl.NumberFormat(undefined, { style: "unit", unit: units[step], unitDisplay: "short",
    maximumFractionDigits: step > 1 ? 1 : 0 }).format(value / 1000 ** step);
}

export function seconds(value) {
  const [amount, unit] = value < 1 ? [value * 1000, "millisecond"] : value < 90 ? [value, "second"] : value < 5400 ? [value / 60, "minute"]
    : value < 129600 ? [value / 3600, "hour"] : [value / 86400, "day"];
  return new Intl.NumberFormat(undefined, { style: "unit", unit, unitDisplay: "short",
    maximumFractionDigits: amount < 10 ? 1 : 0 }).format(amount);
}

export function ago(text) {
  const passed = (Date.now() - new Date(text)) / 1000;
  const [amount, unit] = passed < 60 ? [passed, "second"] : passed < 3600 ? [passed / 60, "minute"]
    : passed < 86400 ? [passed / 3600, "hour"] : [passed / 86400, "day"];
  return relative.format(-Math.max(0, Math.round(amount)), unit);
}

export const pages = (first, last) => (first === last ? `Page ${count(first)}` : `Pages ${count(first)}–${count(last)}`);
export const nameOf = (one) => one.title || one.filename || "Deleted document";
