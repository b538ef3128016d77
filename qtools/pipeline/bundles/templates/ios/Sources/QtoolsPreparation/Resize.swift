// Resizing to the byte as the contract's rule "pillow-8bit" says. Only the C library's sine and cosine are imported.

#if canImport(Darwin)
import Darwin
#elseif canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// RGB, upright, 8 bits per channel: rows of interleaved channels.
public struct Picture: Equatable, Sendable {
    public let height: Int
    public let width: Int
    public let rgb: [UInt8]

    public init(height: Int, width: Int, rgb: [UInt8]) {
        precondition(height > 0 && width > 0 && rgb.count == 3 * height * width, "a picture has 3 bytes per pixel")
        self.height = height
        self.width = width
        self.rgb = rgb
    }
}

struct Size {
    let height: Int
    let width: Int
}

/// For one pixel of the result, the first pixel that it reads, and the integer weights from there on.
struct Reads {
    let first: Int
    let weights: [Int]
}

/// One side of a picture: its length, the number of lines along it, and the bytes from one neighbour, or line, to the
/// next.
struct Side {
    let length: Int
    let step: Int
    let lines: Int
    let stride: Int
}

/// Bits behind the binary point of a weight: 32, less 8 of the pixel, less 2 for sums beyond it.
let precision = 22

func sinc(_ x: Double) -> Double {
    if x == 0.0 { return 1.0 }
    let angle: Double = x * Double.pi
    return sin(angle) / angle
}

func hamming(_ x: Double) -> Double {
    if x == 0.0 { return 1.0 }
    if x >= 1.0 { return 0.0 }
    let angle: Double = x * Double.pi
    let window: Double = Double(Float(0.54)) + Double(Float(0.46)) * cos(angle)
    return sin(angle) / angle * window
}

func bicubic(_ x: Double) -> Double {
    let a: Double = -0.5
    if x < 1.0 { return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0 }
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0
}

func weigh(_ filter: Filter, at distance: Double) -> Double {
    let x: Double = abs(distance)
    switch filter {
    case .box: return distance > -0.5 && distance <= 0.5 ? 1.0 : 0.0
    case .bilinear: return x < 1.0 ? 1.0 - x : 0.0
    case .hamming: return hamming(x)
    case .bicubic: return bicubic(x)
    case .lanczos: return distance >= -3.0 && distance < 3.0 ? sinc(distance) * sinc(distance / 3.0) : 0.0
    case .nearest: preconditionFailure("nearest has no weights")
    }
}

func support(_ filter: Filter) -> Double {
    switch filter {
    case .box: return 0.5
    case .bicubic: return 2.0
    case .lanczos: return 3.0
    case .bilinear, .hamming, .nearest: return 1.0
    }
}

func reads(source: Int, goal: Int, filter: Filter) -> [Reads] {
    let scale: Double = Double(source) / Double(goal)
    let wide: Double = max(scale, 1.0)
    let reach: Double = support(filter) * wide
    let inverse: Double = 1.0 / wide
    var found: [Reads] = []
    for x in 0..<goal {
        let center: Double = (Double(x) + 0.5) * scale
        let first = max(Int(center - reach + 0.5), 0)
        let last = min(Int(center + reach + 0.5), source)
        var real: [Double] = []
        var total: Double = 0.0
        for k in first..<last {
            let weight: Double = weigh(filter, at: (Double(k) - center + 0.5) * inverse)
            real.append(weight)
            total += weight
        }
        var weights: [Int] = []
        for weight in real {
            let share: Double = total == 0.0 ? weight : weight / total
            let scaled: Double = share * Double(1 << precision)
            weights.append(Int(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5))
        }
        found.append(Reads(first: first, weights: weights))
    }
    return found
}

func along(_ data: [UInt8], from source: Side, to goal: Side, filter: Filter) -> [UInt8] {
    let table = reads(source: source.length, goal: goal.length, filter: filter)
    var result = [UInt8](repeating: 0, count: goal.lines * goal.length * 3)
    for line in 0..<source.lines {
        for x in 0..<goal.length {
            let each = table[x]
            for channel in 0..<3 {
                var sum = 1 << (precision - 1)
                var at = line * source.stride + each.first * source.step + channel
                for weight in each.weights {
                    sum += Int(data[at]) * weight
                    at += source.step
                }
                result[line * goal.stride + x * goal.step + channel] = UInt8(max(0, min(255, sum >> precision)))
            }
        }
    }
    return result
}

func withWidth(_ picture: Picture, _ width: Int, _ filter: Filter) -> Picture {
    if picture.width == width { return picture }
    let source = Side(length: picture.width, step: 3, lines: picture.height, stride: 3 * picture.width)
    let goal = Side(length: width, step: 3, lines: picture.height, stride: 3 * width)
    return Picture(height: picture.height, width: width, rgb: along(picture.rgb, from: source, to: goal, filter: filter))
}

func withHeight(_ picture: Picture, _ height: Int, _ filter: Filter) -> Picture {
    if picture.height == height { return picture }
    let source = Side(length: picture.height, step: 3 * picture.width, lines: picture.width, stride: 3)
    let goal = Side(length: height, step: 3 * picture.width, lines: picture.width, stride: 3)
    return Picture(height: height, width: picture.width, rgb: along(picture.rgb, from: source, to: goal, filter: filter))
}

/// The pixel that each pixel of the result is; the scales are added one after the other, so the sum rounds as it goes.
func nearest(source: Int, goal: Int) -> [Int] {
    let scale: Double = Double(source) / Double(goal)
    var at: Double = scale * 0.5
    var found: [Int] = []
    for _ in 0..<goal {
        found.append(min(Int(at), source - 1))
        at += scale
    }
    return found
}

func picked(_ picture: Picture, rows: [Int], columns: [Int]) -> Picture {
    var data: [UInt8] = []
    for row in rows {
        for column in columns {
            for channel in 0..<3 {
                data.append(picture.rgb[3 * (row * picture.width + column) + channel])
            }
        }
    }
    return Picture(height: rows.count, width: columns.count, rgb: data)
}

/// A picture in another size: one side after the other, rounded to bytes in between.
func resized(_ picture: Picture, to goal: Size, _ filter: Filter) -> Picture {
    if picture.height == goal.height && picture.width == goal.width { return picture }
    if filter == .nearest {
        let rows = nearest(source: picture.height, goal: goal.height)
        return picked(picture, rows: rows, columns: nearest(source: picture.width, goal: goal.width))
    }
    let lost = picture.height - goal.height
    if lost > 0 && lost > 2 * (picture.width - goal.width) {
        return withWidth(withHeight(picture, goal.height, filter), goal.width, filter)
    }
    return withHeight(withWidth(picture, goal.width, filter), goal.height, filter)
}
