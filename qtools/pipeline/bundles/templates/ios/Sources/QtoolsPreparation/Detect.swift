// From a detector's two outputs to objects: what `decoding` in contract.json says, in double precision.

#if canImport(Darwin)
import Darwin
#elseif canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// An object. `box` holds left, top, right and bottom as shares of the picture that goes in, behind resize and crop;
/// `uncut` leads back from there. `label` is empty where the class has none.
public struct Found: Equatable, Sendable {
    public let index: Int
    public let label: String
    public let score: Double
    public let box: [Double]
}

/// Pairs of a place and a class, the surest first.
struct Sure {
    let places: [Int]
    let classes: [Int]
    let scores: [Double]
}

let mostLog: Double = 6.907755278982137  // of 1000

/// The boxes that answers start from: middle x, middle y, width and height of each place, four numbers a place.
public func starts(_ anchors: Anchors) -> [Double] {
    var found: [Double] = []
    let last = anchors.maps.count - 1
    for map in 0..<anchors.maps.count {
        let own = scale(anchors, map)
        let next = map < last ? scale(anchors, map + 1) : max(1.0, own)
        let between = sqrt(own * next)
        var widths: [Double] = [own]
        var heights: [Double] = [own]
        widths.append(between)
        heights.append(between)
        for ratio in anchors.ratios[map] {
            let long = own * sqrt(ratio)
            let short = own / sqrt(ratio)
            widths.append(long)
            heights.append(short)
            widths.append(short)
            heights.append(long)
        }
        let rows = anchors.maps[map][0]
        let columns = anchors.maps[map][1]
        for row in 0..<rows {
            for column in 0..<columns {
                for shape in 0..<widths.count {
                    found.append((Double(column) + 0.5) / Double(columns))
                    found.append((Double(row) + 0.5) / Double(rows))
                    found.append(widths[shape])
                    found.append(heights[shape])
                }
            }
        }
    }
    return found
}

func scale(_ anchors: Anchors, _ map: Int) -> Double {
    let steps = max(anchors.maps.count - 1, 1)
    return anchors.lowest + (anchors.highest - anchors.lowest) * Double(map) / Double(steps)
}

/// Left, top, right and bottom of every place.
public func corners(_ answers: [Float], _ decoding: Decoding) -> [[Double]] {
    var found: [[Double]] = []
    var start: [Double] = []
    if let anchors = decoding.anchors { start = starts(anchors) }
    for place in 0..<(answers.count / 4) {
        var x = Double(answers[4 * place])
        var y = Double(answers[4 * place + 1])
        var width = Double(answers[4 * place + 2])
        var height = Double(answers[4 * place + 3])
        if start.count > 0 {
            let wide = start[4 * place + 2]
            let high = start[4 * place + 3]
            x = start[4 * place] + x * wide * decoding.variances[0]
            y = start[4 * place + 1] + y * high * decoding.variances[0]
            width = wide * exp(min(width * decoding.variances[1], mostLog))
            height = high * exp(min(height * decoding.variances[1], mostLog))
        }
        var box: [Double] = [x - width / 2.0]
        box.append(y - height / 2.0)
        box.append(x + width / 2.0)
        box.append(y + height / 2.0)
        found.append(box)
    }
    return found
}

/// Intersection over union of two boxes; 0 where both are empty.
func overlap(_ one: [Double], _ other: [Double]) -> Double {
    let width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    let height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    let shared = width * height
    let either = area(one) + area(other) - shared
    return either > 0.0 ? shared / either : 0.0
}

func area(_ box: [Double]) -> Double {
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
}

/// Pairs that are sure enough: the highest, of equal ones those of the first place, then of the first class.
func surest(_ logits: [Float], _ decoding: Decoding, count: Int) -> Sure {
    let kinds = logits.count / count
    let nothing = (decoding.background + kinds) % kinds  // -1 is the last
    var places: [Int] = []
    var classes: [Int] = []
    var scores: [Double] = []
    for place in 0..<count {
        let shares = softmax(logits, from: place * kinds, count: kinds)
        for kind in 0..<kinds {
            let score = Double(Float(shares[kind]))
            let full = scores.count == decoding.candidates
            if kind == nothing || score <= decoding.least { continue }
            if full && score <= scores[scores.count - 1] { continue }
            if !full {
                places.append(place)
                classes.append(kind)
                scores.append(score)
            }
            var at = scores.count - 1
            while at > 0 && scores[max(at - 1, 0)] < score {
                places[at] = places[at - 1]
                classes[at] = classes[at - 1]
                scores[at] = scores[at - 1]
                at = at - 1
            }
            places[at] = place
            classes[at] = kind > nothing ? kind - 1 : kind
            scores[at] = score
        }
    }
    return Sure(places: places, classes: classes, scores: scores)
}

func softmax(_ numbers: [Float], from first: Int, count: Int) -> [Double] {
    var largest: Float = numbers[first]
    for at in 0..<count {
        largest = max(largest, numbers[first + at])
    }
    var shares: [Double] = []
    var total: Double = 0.0
    for at in 0..<count {
        let power = exp(Double(numbers[first + at]) - Double(largest))
        shares.append(power)
        total += power
    }
    for at in 0..<count {
        shares[at] = shares[at] / total
    }
    return shares
}

/// What is in a picture, the surest first; nothing where the contract is not a detector's.
public func detect(_ logits: [Float], _ answers: [Float], _ contract: Contract) -> [Found] {
    var kept: [Found] = []
    if let decoding = contract.decoding {
        let boxes = corners(answers, decoding)
        let pairs = surest(logits, decoding, count: boxes.count)
        for at in 0..<pairs.scores.count {
            if kept.count == decoding.most { continue }
            let index = pairs.classes[at]
            let box = boxes[pairs.places[at]]
            var apart = true
            if let most = decoding.overlap {
                for other in kept {
                    if other.index == index && overlap(other.box, box) > most { apart = false }
                }
            }
            let label = index < contract.labels.count ? contract.labels[index] : ""
            if apart { kept.append(Found(index: index, label: label, score: pairs.scores[at], box: box)) }
        }
    }
    return kept
}
