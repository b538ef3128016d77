// The photograph, upright as it was handed in, and the boxes on it.

import QtoolsPreparation
import QtoolsVision
import SwiftUI

/// A picture and where its objects are.
struct Shown {
    let image: CGImage
    let marks: [Mark]

    init(_ picture: Picture, _ found: [Found], _ said: Preparation) throws {
        image = try picture.image()
        marks = found.map { each in
            let sides = uncut(each.box, height: picture.height, width: picture.width, said)
            return Mark(name: each.label.isEmpty ? "class \(each.index)" : each.label, index: each.index, sides: sides)
        }
    }
}

/// A class, and left, top, right and bottom as shares of the whole picture.
struct Mark {
    let name: String
    let index: Int
    let sides: [Double]

    /// Where it lies in a view that shows the whole picture.
    func rect(in size: CGSize) -> CGRect {
        let (left, top) = (sides[0] * size.width, sides[1] * size.height)
        return CGRect(x: left, y: top, width: sides[2] * size.width - left, height: sides[3] * size.height - top)
    }
}

struct BoxesView: View {
    let shown: Shown

    var body: some View {
        Canvas { context, size in
            context.draw(Image(decorative: shown.image, scale: 1), in: CGRect(origin: .zero, size: size))
            for mark in shown.marks {
                let colour = Color(hue: Double(mark.index * 137 % 360) / 360, saturation: 0.9, brightness: 0.8)
                let rect = mark.rect(in: size)
                context.stroke(Path(rect), with: .color(colour), lineWidth: 2)
                let name = context.resolve(Text(mark.name).font(.caption).foregroundStyle(Color.white))
                let corner = CGPoint(x: max(0, rect.minX), y: max(0, rect.minY))
                let plate = CGRect(origin: corner, size: name.measure(in: size))
                context.fill(Path(plate), with: .color(colour))
                context.draw(name, in: plate)
            }
        }
        .aspectRatio(CGFloat(shown.image.width) / CGFloat(shown.image.height), contentMode: .fit)
    }
}
