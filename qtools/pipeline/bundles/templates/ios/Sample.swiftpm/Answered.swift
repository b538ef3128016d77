// What the network says of a picture.

import QtoolsPreparation
import QtoolsVision

/// The likeliest classes of a picture, or what a detector is sure of and where that is.
struct Answered: Sendable {
    let picture: Picture
    let lines: [Line]
    let marks: [Mark]
    let took: Duration

    init(_ picture: Picture, by network: Network) throws {
        let start = ContinuousClock.now
        self.picture = picture
        if network.contract.decoding == nil {
            lines = try Classifier(network).classify(picture).enumerated().map { number, each in
                Line(number: number, name: name(each.label, each.index), share: each.probability)
            }
            marks = []
        } else {
            let sure = try Detector(network).detect(picture).filter { $0.score >= 0.5 }
            let said = network.contract.preparation
            lines = sure.enumerated().map { number, each in
                Line(number: number, name: name(each.label, each.index), share: each.score)
            }
            marks = sure.map { each in
                let sides = uncut(each.box, height: picture.height, width: picture.width, said)
                return Mark(name: name(each.label, each.index), index: each.index, sides: sides)
            }
        }
        took = ContinuousClock.now - start
    }
}

struct Line: Sendable {
    let number: Int
    let name: String
    let share: Double
}

/// A class, and left, top, right and bottom as shares of the whole picture.
struct Mark: Sendable {
    let name: String
    let index: Int
    let sides: [Double]
}

private func name(_ label: String, _ index: Int) -> String {
    return label.isEmpty ? "class \(index)" : label
}
