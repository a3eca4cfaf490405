/** Completion and spelling over a list of known names. */

/** Names that fit what was typed, best first: equal, beginning with it, a word beginning with it, containing it, similar. */
export function complete(typed: string, names: readonly string[], limit = 8): string[] {
  const query = fold(typed);
  if (!query) return names.slice(0, limit);
  const ranked: [number, string][] = [];
  for (const name of names) {
    const rank = rankOf(query, fold(name));
    if (rank < Infinity) ranked.push([rank, name]);
  }
  ranked.sort((a, b) => a[0] - b[0] || a[1].length - b[1].length || (a[1] < b[1] ? -1 : 1));
  return ranked.slice(0, limit).map(([, name]) => name);
}

/** The known name that was meant exactly, in its own spelling; null if there is none. */
export function known(typed: string, names: readonly string[]): string | null {
  const query = fold(typed);
  return names.find((name) => fold(name) === query) ?? null;
}

function rankOf(query: string, name: string): number {
  if (name === query) return 0;
  if (name.startsWith(query)) return 1;
  if (name.split(/[\s_-]+/).some((word) => word.startsWith(query))) return 2;
  if (name.includes(query)) return 3;
  const tolerated = query.length < 4 ? 1 : query.length < 8 ? 2 : 3;
  const distance = Math.min(editDistance(query, name), editDistance(query, name.slice(0, query.length)) + 0.5);
  return query.length > 2 && distance <= tolerated ? 4 + distance : Infinity;
}

/** Without case, accents and doubled spaces. */
function fold(text: string): string {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/[\s_]+/g, " ").trim();
}

/** Fewest insertions, deletions, replacements and swaps of neighbours (optimal string alignment). */
export function editDistance(a: string, b: string): number {
  const rows: number[][] = Array.from({ length: a.length + 1 }, (_, i) => [i]);
  for (let j = 0; j <= b.length; j++) rows[0]![j] = j;
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min(rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1, rows[i - 1]![j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, rows[i - 2]![j - 2]! + 1);
      rows[i]![j] = best;
    }
  }
  return rows[a.length]![b.length]!;
}
