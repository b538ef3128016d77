/**
 * How a picture becomes the input tensor, and an output becomes answers: the arithmetic of contract.json, to the byte.
 *
 * No dependency, no browser: the same file runs in a page, in a worker and in Node. A picture is
 * `{width, height, data}` with RGB in `data`, three bytes per pixel, upright.
 */

const PRECISION = 2 ** 22;

/** Weight of each filter at a distance, and the distance beyond which it is zero. */
const FILTERS = {
  box: [(x) => (x > -0.5 && x <= 0.5 ? 1 : 0), 0.5],
  bilinear: [(x) => Math.max(0, 1 - Math.abs(x)), 1],
  hamming: [hamming, 1],
  bicubic: [bicubic, 2],
  lanczos: [(x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0), 3],
};

const ARRAYS = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, float32: Float32Array };

function bicubic(distance) {
  const a = -0.5;
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function hamming(distance) {
  const x = Math.abs(distance);
  if (x === 0) return 1;
  if (x >= 1) return 0;
  const angle = x * Math.PI;
  return (Math.sin(angle) / angle) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(angle));
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/** For every pixel of the result: the first pixel it reads, and integer weights from there on. */
function weights(source, goal, name) {
  const [weigh, reach] = FILTERS[name];
  const scale = source / goal;
  const wide = Math.max(scale, 1);
  const support = reach * wide;
  return Array.from({ length: goal }, (_, x) => {
    const center = (x + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), source);
    const real = [];
    for (let k = first; k < last; k += 1) real.push(weigh((k - center + 0.5) * (1 / wide)));
    const total = real.reduce((sum, each) => sum + each, 0);
    const parts = real.map((each) => {
      const part = total === 0 ? each : each / total;
      return Math.trunc(part * PRECISION + (part < 0 ? -0.5 : 0.5));
    });
    return { first, parts };
  });
}

/**
 * One side of a picture in another length.
 *
 * @param {Uint8Array} data Bytes of a grid of pixels.
 * @param {{lines: number, source: number, goal: number}} sizes Lines, and the length of a line before and after.
 * @param {{line: number, step: number}} from Bytes from one line to the next, and from one pixel of a line to the next.
 * @param {{line: number, step: number}} to The same of the result.
 * @param {string} name Of the filter.
 */
function along(data, { lines, source, goal }, from, to, name) {
  const result = new Uint8Array(lines * goal * 3);
  weights(source, goal, name).forEach(({ first, parts }, x) => {
    for (let line = 0; line < lines; line += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        let total = PRECISION / 2;
        let at = line * from.line + first * from.step + channel;
        for (const part of parts) {
          total += data[at] * part;
          at += from.step;
        }
        result[line * to.line + x * to.step + channel] = Math.min(255, Math.max(0, Math.floor(total / PRECISION)));
      }
    }
  });
  return result;
}

function toWidth({ width, height, data }, goal, name) {
  if (width === goal) return { width, height, data };
  const sizes = { lines: height, source: width, goal };
  const made = along(data, sizes, { line: 3 * width, step: 3 }, { line: 3 * goal, step: 3 }, name);
  return { width: goal, height, data: made };
}

function toHeight({ width, height, data }, goal, name) {
  if (height === goal) return { width, height, data };
  const sizes = { lines: width, source: height, goal };
  const way = { line: 3, step: 3 * width };
  return { width, height: goal, data: along(data, sizes, way, way, name) };
}

function nearest(source, goal) {
  const scale = source / goal;
  const found = [];
  for (let at = scale * 0.5; found.length < goal; at += scale) found.push(Math.min(Math.trunc(at), source - 1));
  return found;
}

/** A picture in another size: one side after the other, rounded to bytes in between. */
export function resize(picture, height, width, name) {
  if (picture.height === height && picture.width === width) return picture;
  if (name === "nearest") {
    const columns = nearest(picture.width, width);
    const data = new Uint8Array(height * width * 3);
    nearest(picture.height, height).forEach((row, y) => {
      columns.forEach((column, x) => {
        const at = 3 * (row * picture.width + column);
        data.set(picture.data.subarray(at, at + 3), 3 * (y * width + x));
      });
    });
    return { width, height, data };
  }
  const lost = picture.height - height;
  if (lost > 0 && lost > 2 * (picture.width - width)) return toWidth(toHeight(picture, height, name), width, name);
  return toHeight(toWidth(picture, width, name), height, name);
}

function halfToEven(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

/** Height and width of a picture before the crop. */
export function goalSize(height, width, preparation) {
  const [goalHeight, goalWidth] = preparation.size.map((side) => Math.floor(side / preparation.keep));
  if (preparation.crop === "squash") return [goalHeight, goalWidth];
  if (preparation.crop === "center" && goalHeight === goalWidth) {
    const grown = Math.floor((goalHeight * Math.max(height, width)) / Math.min(height, width));
    return height <= width ? [goalHeight, grown] : [grown, goalHeight];
  }
  const choose = preparation.crop === "border" ? Math.max : Math.min;
  const ratio = choose(height / goalHeight, width / goalWidth);
  return [height, width].map((side) => Math.max(1, halfToEven(side / ratio)));
}

/** Where the middle of `goal` pixels begins among `have`; below 0 where there are fewer. */
const start = (have, goal) => (have < goal ? -Math.floor((goal - have) / 2) : halfToEven((have - goal) / 2));

/** A box of the picture behind resize and crop, as shares of the whole picture; it may reach beyond that. */
export function uncut([left, top, right, bottom], { height, width }, preparation) {
  const resized = goalSize(height, width, preparation);
  const [down, across] = resized.map((have, side) => {
    const goal = preparation.size[side];
    return (share) => (share * goal + start(have, goal)) / have;
  });
  return [across(left), down(top), across(right), down(bottom)];
}

/** The middle of a picture, with `fill` around where it is smaller. */
export function crop(picture, [height, width], fill) {
  const [top, left] = [start(picture.height, height), start(picture.width, width)];
  const data = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const [row, column] = [y + top, x + left];
      const inside = row >= 0 && row < picture.height && column >= 0 && column < picture.width;
      const at = 3 * (row * picture.width + column);
      data.set(inside ? picture.data.subarray(at, at + 3) : fill, 3 * (y * width + x));
    }
  }
  return { width, height, data };
}

/**
 * A picture as the input tensor.
 *
 * @returns {Int8Array | Uint8Array | Int16Array | Float32Array} In the order of `preparation.layout`.
 */
export function prepare(picture, contract) {
  const { preparation, input } = contract;
  const [height, width] = goalSize(picture.height, picture.width, preparation);
  const cut = crop(resize(picture, height, width, preparation.resize), preparation.size, preparation.fill);
  const pixels = cut.width * cut.height;
  const planes = preparation.layout === "NCHW";
  const tensor = new ARRAYS[input.dtype](pixels * 3);
  for (let channel = 0; channel < 3; channel += 1) {
    const from = preparation.colours === "BGR" ? 2 - channel : channel;
    const row = input.table[channel];
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      tensor[planes ? channel * pixels + pixel : 3 * pixel + channel] = row[cut.data[3 * pixel + from]];
    }
  }
  return tensor;
}

/** What an output's codes are worth, in float32; `said` is the contract's entry about it. */
export function realNumbers(output, contract, said = contract.output) {
  const { scale, zero_point: zero } = said;
  if (scale === null) return Float32Array.from(output);
  return Float32Array.from(output, (code) => Math.fround(code - zero) * Math.fround(scale));
}

/** The likeliest classes: index of the output, label, probability. Of equal ones the first comes first. */
export function top(numbers, contract, count = 5) {
  const largest = numbers.reduce((most, each) => Math.max(most, each), -Infinity);
  const logits = contract.output.meaning === "logits";
  const powers = Array.from(numbers, (each) => (logits ? Math.exp(each - largest) : each));
  const total = logits ? powers.reduce((sum, each) => sum + each, 0) : 1;
  return powers
    .map((power, index) => ({ index, label: contract.labels[index] ?? "", probability: power / total }))
    .sort((one, other) => other.probability - one.probability || one.index - other.index)
    .slice(0, count);
}

/** Bytes of an output as an array of the contract's type. */
export function typed(bytes, dtype) {
  return new ARRAYS[dtype](bytes.slice().buffer);
}
