/** Objects and their boxes, of a detector's two outputs: what `decoding` in contract.json says, in double precision. */

const MOST_LOG = Math.log(1000);

/** The boxes that answers start from: middle x, middle y, width and height of each place, four numbers a place. */
export function anchors({ maps, ratios, lowest, highest }) {
  const last = maps.length - 1;
  const scales = maps.map((_, map) => lowest + ((highest - lowest) * map) / Math.max(last, 1));
  scales.push(Math.max(1, scales[last]));
  const found = [];
  maps.forEach(([rows, columns], map) => {
    const between = Math.sqrt(scales[map] * scales[map + 1]);
    const sides = [[scales[map], scales[map]], [between, between]];
    for (const ratio of ratios[map]) {
      const [long, short] = [scales[map] * Math.sqrt(ratio), scales[map] / Math.sqrt(ratio)];
      sides.push([long, short], [short, long]);
    }
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        for (const [width, height] of sides) found.push((column + 0.5) / columns, (row + 0.5) / rows, width, height);
      }
    }
  });
  return found;
}

/** Left, top, right and bottom of every place, as shares of the picture that goes in. */
export function corners(answers, { anchors: grid, variances }) {
  const start = grid === null ? null : anchors(grid);
  return Array.from({ length: answers.length / 4 }, (_, place) => {
    let [x, y, width, height] = answers.slice(4 * place, 4 * place + 4);
    if (start) {
      const [middleX, middleY, wide, high] = start.slice(4 * place, 4 * place + 4);
      x = middleX + x * wide * variances[0];
      y = middleY + y * high * variances[0];
      width = wide * Math.exp(Math.min(width * variances[1], MOST_LOG));
      height = high * Math.exp(Math.min(height * variances[1], MOST_LOG));
    }
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
  });
}

/** Pairs of a place and a class that are sure enough, the surest first; of equal ones the first place, then class. */
function pairs(logits, places, { background, least, candidates }) {
  const classes = logits.length / places;
  const nothing = (background + classes) % classes; // -1 is the last
  const found = [];
  for (let place = 0; place < places; place += 1) {
    const row = Array.from(logits.slice(place * classes, (place + 1) * classes));
    const largest = Math.max(...row);
    const powers = row.map((each) => Math.exp(each - largest));
    const total = powers.reduce((sum, each) => sum + each, 0);
    powers.forEach((power, at) => {
      const score = Math.fround(power / total);
      if (at !== nothing && score > least) found.push({ place, index: at - (at > nothing), score });
    });
  }
  return found.sort((one, other) => other.score - one.score).slice(0, candidates); // sort is stable
}

function overlap(one, other) {
  const side = (low, high) => Math.max(0, Math.min(one[high], other[high]) - Math.max(one[low], other[low]));
  const area = (box) => Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);
  const shared = side(0, 2) * side(1, 3);
  const either = area(one) + area(other) - shared;
  return either > 0 ? shared / either : 0;
}

/**
 * What is in a picture, the surest first.
 *
 * @param {Float32Array} logits Real numbers of the output, place by place.
 * @param {Float32Array} answers Real numbers of the boxes.
 * @returns {{index: number, label: string, score: number, box: number[]}[]} `box` holds left, top, right and bottom as
 *   shares of the picture that goes in: behind resize and crop. `uncut` of prepare.js leads back from there.
 */
export function detect(logits, answers, { decoding, labels }) {
  const boxes = corners(Array.from(answers), decoding);
  const kept = [];
  for (const { place, index, score } of pairs(logits, boxes.length, decoding)) {
    if (kept.length === decoding.most) break;
    const box = boxes[place];
    const covers = (other) => other.index === index && overlap(other.box, box) > decoding.overlap;
    if (decoding.overlap === null || !kept.some(covers)) kept.push({ index, label: labels[index] ?? "", score, box });
  }
  return kept;
}
