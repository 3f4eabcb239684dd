// How large the tiles of a grid may be. Pure.

export interface Fit {
  columns: number;
  width: number;
  height: number;
}

/** Finds the columns that make n tiles largest in a box; sizes in CSS pixels, ratio = width / height. */
export function fit(n: number, boxWidth: number, boxHeight: number, gap: number): Fit {
  let best: Fit = { columns: 1, width: 0, height: 0 };
  for (let columns = 1; columns <= Math.max(1, n); columns++) {
    const rows = Math.ceil(n / columns);
    const w = (boxWidth - gap * (columns - 1)) / columns;
    const h = (boxHeight - gap * (rows - 1)) / rows;
    if (w <= 0 || h <= 0) continue;
    // People may be cropped a little: from 16:9 to 4:3, and to a portrait where it is narrow.
    const ratio = Math.min(16 / 9, Math.max(boxWidth > boxHeight ? 4 / 3 : 0.72, w / h));
    const width = Math.floor(Math.min(w, h * ratio));
    const height = Math.floor(Math.min(h, width / ratio));
    if (width * height > best.width * best.height) best = { columns, width, height };
  }
  return best;
}
